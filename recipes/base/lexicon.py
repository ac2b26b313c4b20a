"""Names and kinds of things: the 1,000 ImageNet classes in WordNet 3.0, with the words that people use and the kinds above
them.

Source: WordNet (Fellbaum 1998; its own free licence), as Debian's wordnet-base has it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

NOUNS = Path("/usr/share/wordnet/data.noun")
# kinds that people ask for -> offsets of the synsets that they are
KINDS = {
    **{
        "animal": "00015388",
        "bird": "01503061",
        "dog": "02084071",
        "cat": "02120997",
        "fish": "02512053",
        "insect": "02159955",
    },
    **{"reptile": "01661091", "snake": "01726692", "monkey": "02484322", "bear": "02131653", "spider": "01772222"},
    **{"plant": "00017222", "flower": "11669921", "mushroom": "13001041", "fruit": "13134947", "vegetable": "07707451"},
    **{"food": "00021265", "drink": "07881800", "vehicle": "04524313", "car": "02958343", "boat": "02858304"},
    **{"aircraft": "02686568", "ship": "04194289", "truck": "04490091", "train": "04468005", "bicycle": "02834778"},
    **{"clothing": "03051540", "shoe": "04199027", "hat": "03497657", "furniture": "03405725", "building": "02913152"},
    **{"tool": "04451818", "weapon": "04565375", "container": "03094503", "musical instrument": "03800933"},
    **{
        "machine": "03699975",
        "toy": "03964744",
        "room": "04105893",
        "ball": "02778669",
        "bag": "02773838",
        "bottle": "02876657",
    },
    **{"kitchen appliance": "03620052", "electronic device": "03277771", "structure": "04341686", "device": "03183080"},
}
EATEN = ("food", "fruit", "vegetable")
# animals and plants are called by the nearest of these above them: a person says "a dog", and the breed when asked which
BASIC = frozenset(
    "dog cat bird owl penguin duck parrot eagle stork heron fish shark ray snake lizard turtle frog salamander spider crab "
    "lobster beetle butterfly monkey rabbit fox wolf bear squirrel whale elephant camel antelope fungus squash".split()
)
# what WordNet calls otherwise than people do, and kinds that are called by their family: everyday name -> WordNet's
EVERYDAY = {
    **{bird: bird for bird in ("hen", "ostrich", "peacock", "hummingbird", "toucan", "goose", "pelican", "flamingo", "robin")},
    "rooster": "cock",
    "crocodile": "african crocodile",
    "alligator": "american alligator",
    "polar bear": "ice bear",
    "pig": "hog",
    "horse": "sorrel",
    "sheep": "ram",
    "killer whale": "killer whale",
    "panda": "giant panda",
    "red panda": "lesser panda",
    "tarantula": "tarantula",
    "goldfish": "goldfish",
    "ladybug": "ladybug",
    "clownfish": "anemone fish",
    "guitar": "acoustic guitar/electric guitar",
    "piano": "grand piano/upright",
    "drum": "drum/steel drum",
    "saxophone": "sax",
    "car": "beach wagon/convertible/minivan/Model T/racer/sports car/limousine",
    "taxi": "cab",
    "police car": "police van",
    "truck": "moving van/pickup/tow truck/trailer truck/garbage truck",
    "fire truck": "fire engine",
    "jeep": "jeep",
    "bus": "minibus/school bus/trolleybus",
    "train": "bullet train/electric locomotive/freight car/passenger car/steam locomotive",
    "tram": "streetcar",
    "airplane": "airliner/warplane",
    "wing": "wing",
    "bicycle": "bicycle-built-for-two/mountain bike",
    "motorcycle": "moped/motor scooter",
    "boat": "speedboat/fireboat/lifeboat/gondola",
    "sailboat": "yawl/schooner/catamaran/trimaran",
    "ship": "container ship/liner",
    "camper": "recreational vehicle",
    "golf cart": "golfcart",
    "chair": "barber chair/folding chair/rocking chair",
    "bench": "park bench",
    "sofa": "studio couch",
    "bed": "four-poster",
    "table": "dining table",
    "lamp": "table lamp",
    "bookshelf": "bookcase",
    "cabinet": "china cabinet/medicine chest",
    "cup": "cup/coffee mug",
    "glass": "beer glass/goblet",
    "bottle": "beer bottle/pop bottle/water bottle/wine bottle/pill bottle",
    "pot": "caldron/dutch oven/pot",
    "pan": "frying pan",
    "bowl": "mixing bowl/soup bowl",
    "knife": "cleaver",
    "jug": "water jug",
    "coffee": "espresso",
    "wine": "red wine",
    "coffee machine": "espresso maker",
    "salt shaker": "saltshaker",
    "clock": "analog clock/digital clock/wall clock",
    "watch": "digital watch",
    "phone": "cellular telephone/dial telephone/pay-phone",
    "computer": "desktop computer",
    "laptop": "laptop/notebook",
    "keyboard": "computer keyboard/typewriter keyboard",
    "computer mouse": "mouse",
    "television": "television",
    "screen": "monitor/screen",
    "camera": "polaroid camera/reflex camera",
    "speaker": "loudspeaker",
    "remote control": "remote control",
    "printer": "printer",
    "fan": "electric fan",
    "hair dryer": "hand blower",
    "washing machine": "washer",
    "stove": "stove",
    "sink": "washbasin",
    "toilet": "toilet seat",
    "toilet paper": "toilet tissue",
    "bath": "bathtub/tub",
    "trash can": "ashcan",
    "bag": "mailbag/plastic bag",
    "handbag": "purse",
    "backpack": "backpack",
    "hat": "bearskin/cowboy hat/sombrero",
    "helmet": "crash helmet/football helmet/pickelhaube",
    "shoe": "running shoe/loafer/clog",
    "boot": "cowboy boot",
    "tie": "bolo tie/bow tie/windsor tie",
    "shirt": "jersey",
    "jeans": "jean",
    "dress": "gown/hoopskirt",
    "skirt": "miniskirt/overskirt/sarong",
    "coat": "fur coat/trench coat/lab coat",
    "sweater": "sweatshirt",
    "bra": "brassiere",
    "swimsuit": "maillot/bikini/swimming trunks",
    "pajamas": "pajama",
    "glasses": "sunglass",
    "sunglasses": "sunglasses",
    "gun": "assault rifle/revolver/rifle",
    "axe": "hatchet",
    "ruler": "rule/slide rule",
    "pen": "ballpoint/fountain pen",
    "eraser": "rubber eraser",
    "teddy bear": "teddy",
    "puzzle": "jigsaw puzzle",
    "ball": "croquet ball/punching bag",
    "bridge": "steel arch bridge/suspension bridge/viaduct",
    "fence": "chainlink fence/picket fence/worm fence",
    "wall": "stone wall",
    "roof": "thatch/tile roof",
    "curtain": "shower curtain/theater curtain",
    "tent": "mountain tent",
    "store": "grocery store",
    "bookstore": "bookshop",
    "toy store": "toyshop",
    "shoe store": "shoe shop",
    "beach": "seashore/sandbar",
    "mountain": "alp",
    "lake": "lakeside",
    "hamburger": "cheeseburger",
    "hot dog": "hotdog",
    "bread": "french loaf",
    "cabbage": "head cabbage",
    "pasta": "carbonara",
    "apple": "Granny Smith",
    "popsicle": "ice lolly",
    "soup": "consomme",
    "pie": "potpie",
    "sign": "street sign",
    "book": "book jacket/comic book",
    "flower": "yellow lady's slipper",
    "pumpkin": "jack-o'-lantern",
    "swan": "black swan",
}
ROOMS = {
    "kitchen": "stove/microwave/refrigerator/dishwasher/toaster/frying pan/wok/dutch oven/espresso maker/coffeepot/teapot/"
    "Crock Pot/spatula/"
    "ladle/mixing bowl/strainer/waffle iron/plate rack/measuring cup/caldron/can opener/wooden spoon/rotisserie",
    "bathroom": "bathtub/tub/toilet seat/shower curtain/washbasin/soap dispenser/toilet tissue/bath towel/shower cap/plunger/"
    "medicine chest/hair spray/lotion",
    "bedroom": "four-poster/crib/cradle/quilt/pillow/bassinet/wardrobe/chiffonier/mosquito net",
    "living room": "studio couch/entertainment center/television/home theater/fire screen/rocking chair/table lamp",
    "dining room": "dining table/china cabinet",
    "office": "desk/desktop computer/photocopier/printer/file/computer keyboard/mouse/monitor",
    "garage": "car wheel/carpenter's kit/power drill/oil filter/disk brake/lawn mower",
    "library": "library/bookcase",
}
OUTDOORS = frozenset(
    "alp/cliff/coral reef/geyser/lakeside/promontory/sandbar/seashore/valley/volcano/castle/church/mosque/palace/monastery/"
    "stupa/barn/boathouse/breakwater/dam/pier/viaduct/suspension bridge/steel arch bridge/fountain/flagpole/street sign/"
    "traffic light/parking meter/picket fence/worm fence/chainlink fence/stone wall/water tower/school bus/sports car/tractor/"
    "streetcar/park bench/harvester/hay/rapeseed/maze/patio/mountain tent/canoe/speedboat/container ship/airliner/ski".split(
        "/"
    )
)


@dataclass(frozen=True)
class Synset:
    """words: its lemmas, the usual first. above: offsets of its hypernyms."""

    offset: str
    words: tuple[str, ...]
    above: tuple[str, ...]
    gloss: str


@cache
def synsets() -> dict[str, Synset]:
    """Every noun of WordNet by offset (format: wndb(5WN))."""
    found = {}
    for line in NOUNS.read_text().splitlines():
        if line.startswith("  "):
            continue
        data, _, gloss = line.partition(" | ")
        fields = data.split(" ")
        words = int(fields[3], 16)
        pointers = fields[4 + 2 * words :]
        above = [pointers[i + 1] for i in range(1, len(pointers) - 3, 4) if pointers[i] in ("@", "@i")]
        lemmas = tuple(fields[4 + 2 * i].replace("_", " ") for i in range(words))
        found[fields[0]] = Synset(fields[0], lemmas, tuple(above), gloss)
    return found


def glosses() -> list[str]:
    """What WordNet says of every noun: a definition, perhaps examples."""
    return [line.partition("| ")[2].strip() for line in NOUNS.read_text().splitlines() if "| " in line]


def ancestors(offset: str) -> Iterator[str]:
    """Offsets of a synset and of everything above it."""
    yield offset
    for above in synsets()[offset].above:
        yield from ancestors(above)


@dataclass(frozen=True)
class Thing:
    """What can be seen. name: as people call it first; names: all that are right; kinds: from `KINDS`, the narrow ones first;
    narrow: which of its name it is, where that is known; room: where it stands; outdoors: whether it shows a place outside."""

    name: str
    names: tuple[str, ...]
    kinds: tuple[str, ...]
    narrow: str = ""
    room: str = ""
    outdoors: bool = False
    colour: str = ""

    def is_a(self, kind: str) -> bool:
        return kind in self.kinds


def everyday(line: list[str], own: str) -> str:
    """What people call a thing: line, the offsets of its synset and of those above it; own: WordNet's first word for it."""
    for name, narrower in EVERYDAY.items():
        if own in narrower.split("/"):
            return name
    for offset in line:
        for word in synsets()[offset].words[:1]:
            if word in BASIC:
                return {"fungus": "mushroom"}.get(word, word)
    return own


def thing(offset: str) -> Thing:
    """What a synset is called and which kinds it belongs to."""
    found = synsets()[offset]
    line = list(dict.fromkeys(ancestors(offset)))
    kinds = sorted((line.index(root), kind) for kind, root in KINDS.items() if root in line[1:])
    names = tuple(dict.fromkeys(word if word[1:] != word[1:].lower() else word.lower() for word in found.words))
    name = everyday(line, names[0])
    narrow = next((other for other in names if other != name), "") if name != names[0] else ""
    room = next((room for room, things in ROOMS.items() if names[0] in things.split("/")), "")
    return Thing(
        name,
        tuple(dict.fromkeys((name, *names))),
        tuple(kind for _, kind in kinds if kind != name),
        narrow,
        room,
        names[0] in OUTDOORS,
    )


def imagenet(listing: Path) -> list[Thing]:
    """The 1,000 classes in the order of the classifiers; listing: their offsets, `n01440764` a line (timm has such a file)."""
    return [thing(line[1:]) for line in listing.read_text().split()]
