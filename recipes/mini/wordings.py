"""How the embedded model's questions are worded: for every kind, wordings to train on and others that only tests use.
Of kinds with many, the last training wording is not trained on but looked at while developing (`dev`).

`{place}` and `{picture}` are filled at random, the other words by `questions.py`. Every word of a test wording also occurs in
some training wording, except where the question cannot be answered anyway: what is tested is a new sentence.
"""

from __future__ import annotations

PLACES = ("in the picture", "in the image", "in the photo", "in this picture", "in this photo", "here")
PICTURES = ("picture", "image", "photo")


def _table(text: str) -> dict[str, dict[str, tuple[str, ...]]]:
    """`name` lines, then `+ training wording` and `- test wording` lines -> name -> part -> wordings."""
    table: dict[str, dict[str, tuple[str, ...]]] = {}
    name = ""
    for line in filter(None, (line.strip() for line in text.splitlines())):
        if line[0] not in "+-":
            name = line
            table[name] = {"train": (), "dev": (), "test": ()}
            continue
        part = "train" if line[0] == "+" else "test"
        table[name][part] += (line[2:],)
    for parts in table.values():
        keep = -1 if len(parts["train"]) > 5 else None
        parts["dev"] = parts["train"][-1:]
        parts["train"] = parts["train"][:keep]
    return table


WORDINGS = _table("""
what
    + what would you call this?
    + do you know what this is?
    + what kind of picture is this?
    + say what you see.
    + which thing do you see {place}?
    + what object is {place}?
    + what might this be?
    + what is the object {place}?
    + give me the name of this thing.
    + what is the name of the object?
    + name it.
    + how is this called?
    + what is the name of that thing?
    + what could it be?
    + what is this?
    + what is it?
    + what is {place}?
    + what is shown {place}?
    + what can you see {place}?
    + what do you see?
    + what does the {picture} show?
    + which thing is {place}?
    + name the thing {place}.
    + what is that?
    + what's this?
    + what's {place}?
    + what is the thing called?
    + tell me what this is.
    + what thing is this?
    + what am i looking at?
    + can you tell me what this is?
    + which object is this?
    + what object do you see {place}?
    + identify the object.
    + what is the name of this?
    - what object is this?
    - which object can you see {place}?
    - what is this called?
    - what thing do you see?
    - tell me what is {place}.
    - what's that {place}?
    - name this object.
    - what is it called?

is there
    + does it contain {a}?
    + is {a} among the things {place}?
    + does {a} appear {place}?
    + can {a} be seen?
    + do we see {a} {place}?
    + is {a} in the picture?
    + does it show {a}?
    + can {a} be seen {place}?
    + are you able to see {a}?
    + tell me if there is {a}.
    + would you say there is {a}?
    + is it true that there is {a}?
    + is {a} somewhere {place}?
    + is there {a}?
    + is there {a} {place}?
    + do you see {a}?
    + can you see {a} {place}?
    + does the {picture} show {a}?
    + is {a} shown {place}?
    + can you find {a}?
    + is {a} visible?
    + is there {a} to be seen {place}?
    + does this {picture} contain {a}?
    + is {a} present?
    - can you see {a}?
    - do you see {a} {place}?
    - is {a} visible {place}?
    - does this {picture} show {a}?
    - can you find {a} {place}?

is it
    + could it be {a}?
    + is {a} what this is?
    + does it look like {a}?
    + do you think it is {a}?
    + could this be {a}?
    + is the object in the picture {a}?
    + is what you see {a}?
    + is the thing you see {a}?
    + would you say it is {a}?
    + might this be {a}?
    + is this {a}?
    + is it {a}?
    + is that {a}?
    + is the thing {place} {a}?
    + would you call this {a}?
    + does the {picture} show {a}?
    + is this thing {a}?
    + is the object {a}?
    - is this object {a}?
    - would you call it {a}?
    - is that thing {a}?

can it fly
    + does it know how to fly?
    + could this thing fly?
    + is it a thing that can fly?
    + would it be able to fly?
    + is this a thing that flies?
    + could this fly?
    + can it fly?
    + does it fly?
    + can this fly?
    + is it able to fly?
    + is this something that can fly?
    + is it something that flies?
    - does this fly?
    - is this able to fly?
    - is it something that can fly?

wheels
    + are there wheels on this thing?
    + would you find wheels on it?
    + do you see wheels on it?
    + is this a thing that has wheels?
    + is it a thing with wheels?
    + does it have wheels?
    + does this have wheels?
    + has it got wheels?
    + are there wheels on it?
    + is it something with wheels?
    + does the thing have wheels?
    - has this got wheels?
    - are there wheels on this?
    - is this something with wheels?

legs
    + does this thing have four legs?
    + would you count four legs?
    + does it walk on all four legs?
    + is it something with four legs?
    + are there four legs on it?
    + does it have four legs?
    + does this have four legs?
    + has it got four legs?
    + does it walk on four legs?
    - has this got four legs?
    - does this walk on four legs?

alive
    + is this a thing that is alive?
    + does it live?
    + is the thing alive or not?
    + would you say it is alive?
    + is the thing alive?
    + is it alive?
    + is it a living thing?
    + is this a living thing?
    + is this thing alive?
    + is it something alive?
    - is this alive?
    - is this something alive?
    - is that a living thing?

machine
    + does it look like a machine?
    + is it some machine?
    + would you say it is a machine?
    + is it something like a machine?
    + is the thing a machine?
    + is it a machine?
    + is this a machine?
    + is this thing a machine?
    + would you call this a machine?
    - would you call it a machine?
    - is that a machine?

kind
    + what type of object is it?
    + which type of thing do you see?
    + what sort of thing do you see?
    + to which category does it belong?
    + what is the category of this?
    + which sort of thing is this?
    + what kind of thing is {place}?
    + what would you call this kind of thing?
    + what kind of thing is it?
    + what kind of thing is this?
    + what sort of thing is it?
    + which kind of object is this?
    + what type of thing is {place}?
    + what category does this belong to?
    + what kind of object do you see?
    + what sort of object is {place}?
    + which category does it belong to?
    - what type of thing is this?
    - what sort of thing is this?
    - which kind of thing is it?
    - what category does it belong to?
    - what kind of object is {place}?

count
    + what is the count of {things}?
    + count {things} {place}.
    + how many {things} can you count?
    + how many {things} do you count {place}?
    + what number of {things} do you see?
    + how many {things} does it show?
    + do you know how many {things} there are?
    + say how many {things} you see.
    + how many {things} are visible?
    + give me the number of {things}.
    + the number of {things}?
    + how many {things} can be seen {place}?
    + how many {things} are there in total?
    + how many {things} are there?
    + how many {things} are {place}?
    + how many {things} do you see?
    + how many {things} can you see {place}?
    + count the {things}.
    + what is the number of {things}?
    + how many {things} are shown?
    + tell me how many {things} there are.
    + how many {things} does the {picture} show?
    + can you count the {things}?
    - how many {things} can you see?
    - how many {things} are shown {place}?
    - count the {things} {place}.
    - what is the number of {things} {place}?
    - can you tell me how many {things} there are?

left of
    + which thing is next to {the} on the left?
    + what is there on the left side, seen from {the}?
    + name what is left of {the}.
    + seen from {the}, what is on the left?
    + what lies to the left of {the}?
    + what is further left than {the}?
    + what do you find to the left of {the}?
    + what is next to {the}, on its left?
    + what stands left of {the}?
    + left of {the}, what is there?
    + to the left of {the} there is what?
    + which object is to the left of {the}?
    + which thing do you see left of {the}?
    + what is left of {the}?
    + what is to the left of {the}?
    + which thing is left of {the}?
    + what stands to the left of {the}?
    + what do you see left of {the}?
    + what can you see on the left of {the}?
    + what is on the left side of {the}?
    - which thing is to the left of {the}?
    - what is on the left of {the}?
    - what do you see to the left of {the}?

right of
    + which thing is next to {the} on the right?
    + what is there on the right side, seen from {the}?
    + name what is right of {the}.
    + seen from {the}, what is on the right?
    + what lies to the right of {the}?
    + what is further right than {the}?
    + what do you find to the right of {the}?
    + what is next to {the}, on its right?
    + what stands right of {the}?
    + right of {the}, what is there?
    + to the right of {the} there is what?
    + which object is to the right of {the}?
    + which thing do you see right of {the}?
    + what is right of {the}?
    + what is to the right of {the}?
    + which thing is right of {the}?
    + what stands to the right of {the}?
    + what do you see right of {the}?
    + what can you see on the right of {the}?
    + what is on the right side of {the}?
    - which thing is to the right of {the}?
    - what is on the right of {the}?
    - what do you see to the right of {the}?

above
    + name what is above {the}.
    + seen from {the}, what is above?
    + what lies above {the}?
    + which object do you see above {the}?
    + what is further up than {the}?
    + which one is higher than {the}?
    + which object is above {the}?
    + what do you find above {the}?
    + above {the}, what is there?
    + what is up above {the}?
    + which thing do you see over {the}?
    + what thing is above {the}?
    + which thing stands higher than {the}?
    + what is above {the}?
    + which thing is above {the}?
    + what do you see above {the}?
    + what is over {the}?
    + what can you see over {the}?
    + what is higher than {the}?
    - what can you see above {the}?
    - which thing is over {the}?
    - which thing is higher than {the}?

below
    + name what is below {the}.
    + seen from {the}, what is below?
    + what lies below {the}?
    + which object do you see below {the}?
    + what is further down than {the}?
    + which one is lower than {the}?
    + which object is below {the}?
    + what do you find below {the}?
    + below {the}, what is there?
    + what is down below {the}?
    + which thing do you see under {the}?
    + what thing is below {the}?
    + which thing stands lower than {the}?
    + what is below {the}?
    + which thing is below {the}?
    + what do you see below {the}?
    + what is under {the}?
    + what can you see under {the}?
    + what is lower than {the}?
    - what can you see below {the}?
    - which thing is under {the}?
    - which thing is lower than {the}?

leftmost
    + which one is furthest left?
    + what is furthest to the left {place}?
    + which thing stands left of all others?
    + what is the leftmost object?
    + which is the leftmost object?
    + which object is on the left?
    + what is to the far left?
    + name the leftmost thing.
    + which thing is furthest left?
    + what stands on the left?
    + what do you find on the left side?
    + what is on the left?
    + which thing is on the left?
    + what is on the left side?
    + what is furthest left?
    + what do you see on the left?
    + which thing is furthest to the left?
    + what is the leftmost thing?
    - what is furthest to the left?
    - which thing is on the left side?
    - what can you see on the left?
    - which is the leftmost thing?

rightmost
    + which one is furthest right?
    + what is furthest to the right {place}?
    + which thing stands right of all others?
    + what is the rightmost object?
    + which is the rightmost object?
    + which object is on the right?
    + what is to the far right?
    + name the rightmost thing.
    + which thing is furthest right?
    + what stands on the right?
    + what do you find on the right side?
    + what is on the right?
    + which thing is on the right?
    + what is on the right side?
    + what is furthest right?
    + what do you see on the right?
    + which thing is furthest to the right?
    + what is the rightmost thing?
    - what is furthest to the right?
    - which thing is on the right side?
    - what can you see on the right?
    - which is the rightmost thing?

topmost
    + which one is highest up?
    + what is highest {place}?
    + which thing stands higher than all others?
    + what lies furthest up?
    + name the topmost thing.
    + what is the topmost object?
    + which is the topmost object?
    + what is the highest thing?
    + which object is at the top?
    + name the thing at the top.
    + what stands highest?
    + which object is highest?
    + what is at the top?
    + which thing is at the top?
    + what is highest?
    + what do you see at the top?
    + what is the topmost thing?
    + which thing is highest {place}?
    - what can you see at the top?
    - which is the topmost thing?
    - which thing is highest?

lowest
    + which one is lowest down?
    + what is lowest {place}?
    + which thing stands lower than all others?
    + what lies furthest down?
    + name the lowest thing.
    + what is the lowest object?
    + which is the lowest object?
    + which object is at the bottom?
    + name the thing at the bottom.
    + what stands lowest?
    + which object is lowest?
    + what is the thing at the bottom?
    + what is at the bottom?
    + which thing is at the bottom?
    + what is lowest?
    + what do you see at the bottom?
    + what is the lowest thing?
    + which thing is lowest {place}?
    - what can you see at the bottom?
    - which is the lowest thing?
    - which thing is lowest?

biggest
    + which one is the biggest?
    + what is the biggest one {place}?
    + which thing has the largest size?
    + what is larger than all others?
    + what takes the most room?
    + of all things {place}, which is largest?
    + which object is the biggest?
    + what is the biggest object?
    + name the biggest thing.
    + which thing is the largest?
    + which one is biggest?
    + what looks biggest?
    + what is the biggest thing?
    + which thing is biggest?
    + which is the biggest?
    + what is biggest {place}?
    + which is the largest thing?
    + what is the largest?
    + which object is largest?
    - which is the biggest thing?
    - what is the largest thing?
    - which object is biggest?

smallest
    + which one is the smallest?
    + what is the smallest one {place}?
    + which thing has the smallest size?
    + what is smaller than all others?
    + what takes the least room?
    + of all things {place}, which is smallest?
    + which object is the smallest?
    + name the smallest thing.
    + which thing is the smallest?
    + which one is smallest?
    + what looks smallest?
    + which is the smallest object?
    + what is the smallest thing?
    + which thing is smallest?
    + which is the smallest?
    + what is smallest {place}?
    + which object is smallest?
    + what is the smallest object?
    - which is the smallest thing?
    - what is the smallest object {place}?

is left of
    + is {the} further to the left than {other}?
    + seen from {other}, is {the} on the left?
    + is {the} to the left or not, seen from {other}?
    + would you find {the} left of {other}?
    + does {the} lie to the left of {other}?
    + is the place of {the} left of {other}?
    + {the} is left of {other}, right?
    + does {the} stand to the left of {other}?
    + is {the} somewhere left of {other}?
    + is {the} further left than {other} is?
    + can you see {the} left of {other}?
    + does {the} stand left of {other}?
    + is {the} left of {other}?
    + is {the} to the left of {other}?
    + is {the} on the left of {other}?
    + do you see {the} left of {other}?
    + is {the} on the left side of {other}?
    - do you see {the} to the left of {other}?
    - is {the} further left than {other}?

is right of
    + seen from {other}, is {the} on the right?
    + would you find {the} right of {other}?
    + does {the} lie to the right of {other}?
    + is the place of {the} right of {other}?
    + {the} is right of {other}, is that so?
    + does {the} stand to the right of {other}?
    + is {the} somewhere right of {other}?
    + can you see {the} right of {other}?
    + does {the} stand right of {other}?
    + is {the} further to the right than {other}?
    + is {the} right of {other}?
    + is {the} to the right of {other}?
    + is {the} on the right of {other}?
    + do you see {the} right of {other}?
    + is {the} on the right side of {other}?
    + is {the} further right than {other}?
    - do you see {the} to the right of {other}?

is above
    + is {the} further to the top than {other}?
    + is {the} nearer to the top than {other}?
    + seen from {other}, is {the} above?
    + would you find {the} above {other}?
    + does {the} lie above {other}?
    + is {the} somewhere above {other}?
    + is the place of {the} above {other}?
    + is {other} below {the}?
    + is {the} closer to the top than {other}?
    + does {the} stand above {other}?
    + is {the} up above {other}?
    + can you see {the} above {other}?
    + is {the} higher in the picture than {other}?
    + does {the} stand higher than {other}?
    + is {the} above {other}?
    + is {the} over {other}?
    + do you see {the} above {other}?
    + is {the} higher than {other}?
    + is {the} further up than {other}?
    - do you see {the} over {other}?
    - is {the} higher up than {other}?

is below
    + is {the} further to the bottom than {other}?
    + is {the} nearer to the bottom than {other}?
    + seen from {other}, is {the} below?
    + would you find {the} below {other}?
    + does {the} lie below {other}?
    + is {the} somewhere below {other}?
    + is the place of {the} below {other}?
    + is {other} above {the}?
    + is {the} closer to the bottom than {other}?
    + does {the} stand below {other}?
    + is {the} down below {other}?
    + can you see {the} below {other}?
    + is {the} lower in the picture than {other}?
    + does {the} stand lower than {other}?
    + is {the} below {other}?
    + is {the} under {other}?
    + do you see {the} below {other}?
    + is {the} lower than {other}?
    + is {the} further down than {other}?
    - do you see {the} under {other}?

is bigger
    + is {the} bigger, compared with {other}?
    + compared with {other}, is {the} larger?
    + is the size of {the} larger than that of {other}?
    + is {the} the bigger of the two, {the} and {other}?
    + does {the} take more room than {other}?
    + does {the} have a larger size than {other}?
    + is {other} the smaller one, next to {the}?
    + is {the} the bigger one of the two, next to {other}?
    + does {the} look larger to you than {other}?
    + is {the} the larger one, next to {other}?
    + would you say {the} is bigger than {other}?
    + is {the} of larger size than {other}?
    + is {the} bigger than {other}?
    + is {the} larger than {other}?
    + is {other} smaller than {the}?
    + does {the} look bigger than {other}?
    + next to {other}, is {the} the bigger one?
    - is {the} the bigger one, next to {other}?
    - does {the} look larger than {other}?

colour
    + which color is it?
    + what is its colour, do you know?
    + which colour is this?
    + what colour do you see?
    + what is the color?
    + which color does this have?
    + tell me its color.
    + what color does it have?
    + name the color.
    + what color is it?
    + what color is this?
    + what colour is it?
    + what is its color?
    + which color does it have?
    + what color do you see?
    + what colour does this have?
    + what is the color of this?
    - what colour is this?
    - which colour does it have?
    - what is its colour?
    - what is the color of it?

colour of
    + in which color is {the}?
    + what is the color {the} has?
    + which color is {the}?
    + which colour is {the}?
    + what is the color that {the} has?
    + what colour does {the} have?
    + tell me the colour of {the}.
    + name the color of {the}.
    + do you know the color of {the}?
    + what color do you see on {the}?
    + say what color {the} is.
    + what color is {the}?
    + what colour is {the}?
    + what is the color of {the}?
    + which color does {the} have?
    + what color has {the}?
    + tell me the color of {the}.
    + what color does {the} have {place}?
    - what is the colour of {the}?
    - which colour does {the} have?
    - what color does {the} have?
    - tell me what color {the} is.

mood
    + what is the feeling of this face?
    + which emotion is shown?
    + what mood does the face show?
    + how does it feel?
    + which mood is this?
    + how do they feel?
    + is the face happy, or what?
    + what feeling is this?
    + how does the face feel?
    + what mood is it in?
    + how does it look?
    + how is it feeling?
    + what feeling does the face show?
    + what is the mood?
    + what emotion is this?
    + what emotion does the face show?
    + how does this face look?
    - how is the face feeling?
    - what mood is this?
    - what emotion does it show?
    - how does this face feel?

read
    + what is on the sign, can you read it?
    + what text does it show?
    + tell me what it says.
    + what do the letters say?
    + what does this say?
    + read it to me.
    + read what is on the sign.
    + which text is on the sign?
    + what is the writing?
    + do you know what it says?
    + what's on the sign?
    + what does it say?
    + what does the sign say?
    + what is written {place}?
    + what is the text?
    + read the text.
    + read the sign.
    + what can you read?
    + what does the text say?
    + what is written on the sign?
    + what do you read {place}?
    + what text is {place}?
    + can you read this?
    + what's written on it?
    - what text do you see?
    - what can you read {place}?
    - read what is written.
    - what is on the sign?
    - can you read the sign?
    - what's written {place}?

word
    + what does the word say?
    + which word do you read?
    + what word can you read?
    + tell me the word.
    + what word is on the sign?
    + which word is on the sign?
    + which word is it?
    + what word is this?
    + what word do you see?
    + read the word.
    + which word is written {place}?
    + what is the word on the sign?
    - which word do you see?
    - what word is written {place}?
    - what is the word?

number
    + what number can you read?
    + which number is written {place}?
    + tell me the number.
    + what number does it show?
    + what number is written on the sign?
    + which number can you see?
    + what number is it?
    + which number is this?
    + what number is {place}?
    + what number do you see?
    + read the number.
    + which number is on the sign?
    + what is the number?
    - which number is it?
    - which number do you see?
    - what number is on the sign?

price
    + what is the cost?
    + what price is written {place}?
    + tell me the price.
    + what price does it show?
    + how much would this cost?
    + do you know the price?
    + what price can you read?
    + what is the price?
    + how much is it?
    + what does it cost?
    + how much does it cost?
    + what price is {place}?
    + read the price.
    + how much does this cost?
    - how much is this?
    - what does this cost?
    - what price do you see?

time
    + tell me the time.
    + what time is written {place}?
    + which time is it?
    + do you know what time it is?
    + what time can you read?
    + what time does the sign show?
    + what time is it?
    + what time does it show?
    + which time is shown?
    + what time is shown {place}?
    + read the time.
    + what is the time?
    - what time do you see?
    - which time does it show?
    - what is the time {place}?

shape
    + what kind of shape is this?
    + which shape can you see?
    + what shape can you see {place}?
    + what is the name of the shape?
    + tell me the shape.
    + which shape does the {picture} show?
    + name the shape.
    + what shape is this?
    + what shape is it?
    + which shape is {place}?
    + what shape do you see?
    + what is the shape?
    + what shape is in the image?
    + what shape does the image contain?
    + what shape is present?
    - which shape is this?
    - which shape do you see?
    - what shape is {place}?

shape of
    + in what shape is {the}?
    + what is the form of {the}?
    + tell me what shape {the} has.
    + which is the shape of {the}?
    + of what shape is {the}?
    + name the shape of {the}.
    + do you know the shape of {the}?
    + what shape is {the}?
    + which shape is {the}?
    + what is the shape of {the}?
    + what shape has {the}?
    + what shape does {the} have?
    - which shape does {the} have?
    - tell me the shape of {the}.
    - which shape has {the}?

what is the coloured shape
    + {the} is what?
    + what do you call {the}?
    + which kind of shape is {the}?
    + tell me what {the} is.
    + what would you call {the}?
    + which shape is {the}?
    + do you know what {the} is?
    + name {the}.
    + what is {the}?
    + {the}: what is it?
    + which one is {the}?
    - what is {the} called?

where
    + which part of the {picture} is {the} in?
    + on what side is {the}?
    + which side is {the} on?
    + where would i look for {the}?
    + what is the position of {the}?
    + {the}: where is it?
    + at which place do you see {the}?
    + is {the} at the top, at the bottom, on the left or on the right?
    + say where {the} is.
    + where can {the} be seen?
    + whereabouts is {the}?
    + on which part of the {picture} is {the}?
    + where can you find {the}?
    + in which part of it is {the}?
    + tell me where {the} is.
    + where does {the} stand?
    + where in the {picture} is {the}?
    + can you tell me where {the} is?
    + in what part of the {picture} is {the}?
    + where is {the}?
    + where is {the} {place}?
    + where do you see {the}?
    + in which part of the {picture} is {the}?
    + on which side is {the}?
    - where can you see {the}?
    - in which part is {the}?

which is bigger
    + of {the} and {other}, which is bigger?
    + {the} or {other}: which is bigger?
    + which has the larger size, {the} or {other}?
    + between {the} and {other}, which one is larger?
    + which of the two is bigger, {the} or {other}?
    + name the bigger one: {the} or {other}.
    + what looks larger, {the} or {other}?
    + which of them is bigger, {the} or {other}?
    + is {the} or {other} bigger?
    + which looks bigger, {the} or {other}?
    + what is larger: {the} or {other}?
    + which one is the bigger one, {the} or {other}?
    + which is larger, {the} or {other}?
    + which is bigger, {the} or {other}?
    + what is bigger, {the} or {other}?
    + which one is larger, {the} or {other}?
    + which is larger: {the} or {other}?
    - which one is bigger, {the} or {other}?
    - what is larger, {the} or {other}?

which is smaller
    + of {the} and {other}, which is smaller?
    + {the} or {other}: which is smaller?
    + which has the smaller size, {the} or {other}?
    + between {the} and {other}, which one is smaller?
    + which of the two is smaller, {the} or {other}?
    + name the smaller one: {the} or {other}.
    + what looks smaller, {the} or {other}?
    + which of them is smaller, {the} or {other}?
    + is {the} or {other} smaller?
    + which looks smaller, {the} or {other}?
    + what is smaller: {the} or {other}?
    + which one is the smaller one, {the} or {other}?
    + which is smaller: {the} or {other}?
    + which is smaller, {the} or {other}?
    + what is smaller, {the} or {other}?
    + which one is smaller: {the} or {other}?
    - which one is smaller, {the} or {other}?

more
    + is the number of {things} higher than the number of {others}?
    + are there fewer {others} than {things}?
    + {things} or {others}: are there more {things}?
    + compared with {others}, are there more {things}?
    + do the {things} outnumber the {others}?
    + does it show more {things} than {others}?
    + would you say there are more {things} than {others}?
    + are {things} more in number than {others}?
    + are there more {things} {place} than {others}?
    + can you count more {things} than {others}?
    + are there more {things} than {others}?
    + do you see more {things} than {others}?
    + is the number of {things} larger than the number of {others}?
    - can you see more {things} than {others}?
    - are more {things} than {others} {place}?

same colour
    + is the color of {the} the color of {other}?
    + are the colors of {the} and {other} the same?
    + do {the} and {other} share one color?
    + does {the} look the same in color as {other}?
    + do {the} and {other} share the same color?
    + is the color of {the} the same as the color of {other}?
    + are {the} and {other} the same color?
    + do you see the same color on {the} and {other}?
    + do {the} and {other} have the same color?
    + are {the} and {other} of the same color?
    + is {the} the same color as {other}?
    + have {the} and {other} got the same colour?
    - do {the} and {other} have the same colour?
    - is {the} of the same color as {other}?

present
    + does it show a {thing}?
    + is there some {thing} {place}?
    + can a {thing} be seen?
    + is a {thing} in the image?
    + tell me if there is a {thing}.
    + is there a {thing}?
    + is there a {thing} in the image?
    + is a {thing} present?
    + does the image contain a {thing}?
    + do you see a {thing}?
    + can you see a {thing} {place}?
    - do you see a {thing} {place}?
    - can you see a {thing}?

absent
    + is it true that there is no {thing}?
    + does it show no {thing}?
    + is a {thing} not present?
    + is a {thing} not in the image?
    + is there no {thing} to be seen?
    + would you say there is no {thing}?
    + is there not a {thing}?
    + is there not a {thing} in the image?
    + is no {thing} present?
    + does the image not contain a {thing}?
    + is there no {thing}?
    - is there no {thing} {place}?
    - is there not a {thing} {place}?

doing
    + what is {the} thinking?
    + who made {the}?
    + when was {the} made?
    + where was {the} made?
    + how strong is {the}?
    + what is the age of {the}?
    + is {the} expensive?
    + what does {the} want?
    + how long is the life of {the}?
    + why does {the} look like that?
    + what is {the} doing?
    + why is {the} there?
    + how old is {the}?
    + what is {the} called by its friends?
    + who owns {the}?
    + how heavy is {the}?
    + what did {the} cost?
    + where does {the} live?
    + what does {the} eat?
    + how fast is {the}?
    - who bought {the}?
    - where does {the} come from?
    - how much does {the} eat?

unknowable
    + who is he?
    + who is she?
    + who took this photo?
    + who owns it?
    + where was this taken?
    + where is it going?
    + in which country is this?
    + when was this taken?
    + what year is it?
    + what season is it?
    + is it day or night?
    + why is it moving?
    + how many people live here?
    + how far away is it?
    + how does it work?
    + what is it doing?
    + what is the person doing?
    + what brand is it?
    + what is the weather like?
    + what is it made of?
    + what is its name?
    + what is the temperature?
    + what language is this?
    + what song is this?
    + what is wrong here?
    + what happens next?
    + what should i do?
    + what does it eat?
    + what sound does it make?
    + which team is this?
    + which street is this?
    + which way is it facing?
    + is it expensive?
    + is anyone at home?
    + are they friends?
    + does it bite?
    + do i need a coat?
    + will it move?
    + tell me a joke.
    + describe the picture.
    + hello!
    + thank you.
    + write a poem.
    + translate this.
    + can you help me?
    + guess what this costs.
    + say something.
    + where is my phone?
    + how do i get home?
    + is it safe?
    + who is the president?
    + what is the capital of france?
    + what is two plus two?
    + do you love me?
    + are you a robot?
    + who made you?
    - what is the date today?
    - what is the name of this person?
    - who made this?
    - how old is it?
    - which city is this?
    - why is it here?
    - who is in the picture?
    - what is the person wearing?
    - when does it open?
    - how are you?
    - what is the name of the street?
    - do i need a ticket?
    - is she happy?
    - tell me a story.
""")
