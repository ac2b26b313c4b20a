"""The everyday things of the embedded model: which emoji shows them, what they are called, what kind of thing they are.

An entry is the emoji's short name in `emoji-datasource`, and its noun where that differs. A noun stands for one emoji only,
so that there is one right answer. Faces are apart: their question is the mood.
"""

from __future__ import annotations

_THINGS = {
    "animal": """
        monkey, gorilla, orangutan, dog2=dog, poodle, wolf, fox_face=fox, raccoon, cat2=cat, lion_face=lion, tiger2=tiger,
        leopard, racehorse=horse, unicorn_face=unicorn, zebra_face=zebra, deer, bison, cow2=cow, pig2=pig, boar, ram,
        sheep, goat, camel, llama, giraffe_face=giraffe, elephant, mammoth, rhinoceros=rhino, hippopotamus=hippo,
        mouse2=mouse, hamster, rabbit2=rabbit, chipmunk=squirrel, beaver, hedgehog, bat, bear, koala, panda_face=panda,
        sloth, otter, skunk, kangaroo, badger, crocodile, turtle, lizard, snake, dragon, sauropod=dinosaur, whale, dolphin,
        seal, fish, blowfish, shark, octopus, jellyfish, crab, lobster, shrimp, squid, frog, snail, turkey, rooster,
        hatching_chick=chick, bird, penguin, dove_of_peace=dove, eagle, duck, swan, owl, flamingo, peacock, parrot""",
    "insect": "butterfly, ant, bee, beetle, ladybug, cricket, cockroach, mosquito, fly",
    "fruit": """
        grapes, melon, watermelon, tangerine=orange, lemon, banana, pineapple, mango, apple, pear, peach, cherries,
        strawberry, blueberries, kiwifruit=kiwi, coconut""",
    "vegetable": """
        tomato, avocado, eggplant, potato, carrot, corn, hot_pepper=chili, bell_pepper=pepper, cucumber,
        leafy_green=lettuce, broccoli, garlic, onion, peanuts, chestnut, mushroom""",
    "food": """
        bread, croissant, baguette_bread=baguette, pretzel, bagel, pancakes, waffle, cheese_wedge=cheese, meat_on_bone=meat,
        bacon, hamburger, fries, pizza, hotdog, sandwich, taco, burrito, fried_egg=egg, popcorn, butter, rice, ramen=noodles,
        spaghetti, sushi, dumpling, icecream=ice cream, doughnut=donut, cookie, birthday=cake, cupcake, pie,
        chocolate_bar=chocolate, candy, lollipop, honey_pot=honey""",
    "drink": "glass_of_milk=milk, coffee, tea, wine_glass=wine, cocktail, beer, champagne",
    "plant": """
        potted_plant=plant, evergreen_tree=fir, palm_tree=palm, cactus, four_leaf_clover=clover, maple_leaf=leaf, rose,
        sunflower, tulip, hibiscus, christmas_tree=christmas tree, seedling""",
    "vehicle": """
        steam_locomotive=locomotive, bullettrain_side=train, tram, bus, ambulance, fire_engine=fire truck,
        police_car=police car, taxi, car, truck, tractor, racing_car=racing car, racing_motorcycle=motorcycle,
        motor_scooter=moped, bike=bicycle, scooter, boat=sailboat, canoe, speedboat, passenger_ship=ship, airplane,
        helicopter, rocket, flying_saucer=ufo""",
    "building": """
        stadium, hut, house, factory, office, hospital, bank, school, japanese_castle=pagoda, european_castle=castle,
        church, mosque, tokyo_tower=tower, tent, circus_tent=circus, statue_of_liberty=statue, ferris_wheel=ferris wheel""",
    "tool": """
        hammer, axe, pick, dagger_knife=knife, carpentry_saw=saw, wrench, screwdriver, nut_and_bolt=bolt, magnet, ladder,
        scissors, paperclip, pushpin, pencil2=pencil, lower_left_paintbrush=brush, straight_ruler=ruler, shield,
        bow_and_arrow=bow, toothbrush, razor, broom, bucket, plunger, spoon, key, lock, syringe, compass, flashlight,
        fire_extinguisher=fire extinguisher""",
    "clothing": """
        eyeglasses=glasses, dark_sunglasses=sunglasses, necktie=tie, shirt, jeans, scarf, gloves, coat, socks, dress, kimono,
        bikini, shorts, handbag, school_satchel=backpack, mans_shoe=shoe, athletic_shoe=sneaker, high_heel=high heel, boot,
        crown, tophat=top hat, billed_cap=cap, ring, lab_coat=lab coat, womans_hat=hat""",
    "weather": "sunny=sun, cloud, rain_cloud=rain, lightning, tornado, rainbow, snowflake, umbrella, crescent_moon=moon",
    "sport": """
        soccer=football, baseball, basketball, volleyball, rugby_football=rugby ball, tennis=tennis racket, bowling,
        boxing_glove=boxing glove, golf, ice_skate=skate, ski, sled, skateboard, trophy, dart=target""",
    "instrument": "saxophone, accordion, guitar, trumpet, violin, banjo, drum_with_drumsticks=drum, maracas, harp",
    "device": """
        headphones, radio, tv, camera, computer=laptop, printer, keyboard, iphone=phone, telephone_receiver=handset,
        battery, bulb=light bulb, microphone, alarm_clock=alarm clock, watch, joystick, microscope, telescope,
        electric_plug=plug, stopwatch, satellite""",
    "furniture": "door, mirror, bed, chair, toilet, bathtub",
    "toy": "kite, yo-yo, teddy_bear=teddy bear, game_die=dice, balloon, nesting_dolls=doll, pinata, jigsaw=puzzle",
    "object": """
        book, newspaper, scroll, envelope=letter, package=box, gift, bell, candle, hourglass, anchor, bomb, gem=diamond,
        moneybag=money bag, credit_card=credit card, coin, briefcase, luggage=suitcase, basket, soap, bone, tooth, feather,
        ghost, robot_face=robot, alien, skull, snowman, jack_o_lantern=pumpkin, fire, droplet=drop, star, heart,
        traffic_light=traffic light, wheel, mailbox, trident=trident, pill, test_tube=test tube, crystal_ball=crystal ball""",
}  # fmt: skip

# mood -> faces that show it; the answer to "how does the face feel" is the mood
_MOODS = {
    "happy": "grinning, smiley, smile, grin, slightly_smiling_face, blush",
    "laughing": "joy, rolling_on_the_floor_laughing, laughing",
    "sad": "slightly_frowning_face, white_frowning_face, disappointed, pensive, cry",
    "crying": "sob",
    "angry": "rage, angry",
    "in love": "heart_eyes, smiling_face_with_3_hearts, kissing_heart",
    "surprised": "open_mouth, hushed, astonished",
    "scared": "scream, fearful",
    "sleepy": "sleeping, sleepy, yawning_face",
    "sick": "nauseated_face, face_with_thermometer, mask, face_vomiting",
    "cool": "sunglasses",
    "hot": "hot_face",
    "cold": "cold_face",
    "dizzy": "dizzy_face, face_with_spiral_eyes",
    "thinking": "thinking_face",
    "silly": "stuck_out_tongue, stuck_out_tongue_winking_eye, zany_face",
}

# things of which every training style shows the same single colour
_COLOURS = {
    "gray": "elephant, koala, shark, wolf, rhino",
    "white": "dove, swan, skull, tooth, cloud, lab coat, letter, ghost, snowman",
    "green": """
        crocodile, lizard, dinosaur, frog, turtle, snake, pear, cucumber, lettuce, broccoli, fir, cactus, clover,
        christmas tree, seedling, battery""",
    "red": """
        lobster, crab, cherries, strawberry, tomato, rose, car, magnet, pushpin, scarf, backpack, high heel, boxing glove,
        yo-yo, balloon, heart, apple, fire truck, fire extinguisher""",
    "blue": "dolphin, whale, fish, blueberries, bucket, jeans, coat, dress, cap, snowflake, anchor, diamond, drop",
    "orange": "fox, tiger, orange, basketball, pumpkin, carrot",
    "purple": "grapes, eggplant",
    "pink": "pig, hibiscus, flamingo",
    "yellow": "lemon, banana, chick, taxi, corn",
    "brown": "briefcase, bear, beaver, otter, cricket, chestnut",
}

# kind -> the broader kinds it also is, for "is it a ..." and "is there a ..."
ALSO = {"insect": ("animal",), "fruit": ("food",), "vegetable": ("food",)}
PLURAL_NOUNS = frozenset(
    "grapes cherries blueberries peanuts pancakes fries noodles glasses sunglasses jeans gloves socks shorts maracas"
    " headphones scissors".split()
)
MASS_NOUNS = frozenset(
    "bread cheese meat bacon popcorn butter rice spaghetti sushi chocolate honey milk coffee tea wine beer champagne corn"
    " broccoli garlic lettuce rain lightning golf bowling soap fire ice\u00a0cream".replace("\u00a0", " ").split()
) | {"ice cream"}


def _entries(text: str) -> list[tuple[str, str]]:
    """`short_name` or `short_name=noun`, separated by commas -> (short name, noun)."""
    pairs = []
    for entry in " ".join(text.split()).split(", "):
        short, _, noun = entry.partition("=")
        pairs.append((short, noun or short))
    return pairs


# noun -> kind, noun -> short name, short name of a face -> mood
KIND = {noun: kind for kind, text in _THINGS.items() for _, noun in _entries(text)}
EMOJI = {noun: short for text in _THINGS.values() for short, noun in _entries(text)}
MOOD = {short: mood for mood, text in _MOODS.items() for short, _ in _entries(text)}
COLOUR = {noun: colour for colour, text in _COLOURS.items() for noun, _ in _entries(text)}
NOUNS = tuple(KIND)
KINDS = tuple(_THINGS)
MOODS = tuple(_MOODS)
