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
    + does it have four legs?
    + does this have four legs?
    + has it got four legs?
    + does it walk on four legs?
    - has this got four legs?
    - does this walk on four legs?

alive
    + is it alive?
    + is it a living thing?
    + is this a living thing?
    + is this thing alive?
    + is it something alive?
    - is this alive?
    - is this something alive?
    - is that a living thing?

machine
    + is it a machine?
    + is this a machine?
    + is this thing a machine?
    + would you call this a machine?
    - would you call it a machine?
    - is that a machine?

kind
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
    + what is the smallest thing?
    + which thing is smallest?
    + which is the smallest?
    + what is smallest {place}?
    + which object is smallest?
    + what is the smallest object?
    - which is the smallest thing?
    - what is the smallest object {place}?

is left of
    + is {the} left of {other}?
    + is {the} to the left of {other}?
    + is {the} on the left of {other}?
    + do you see {the} left of {other}?
    + is {the} on the left side of {other}?
    - do you see {the} to the left of {other}?
    - is {the} further left than {other}?

is right of
    + is {the} right of {other}?
    + is {the} to the right of {other}?
    + is {the} on the right of {other}?
    + do you see {the} right of {other}?
    + is {the} on the right side of {other}?
    + is {the} further right than {other}?
    - do you see {the} to the right of {other}?

is above
    + is {the} above {other}?
    + is {the} over {other}?
    + do you see {the} above {other}?
    + is {the} higher than {other}?
    + is {the} further up than {other}?
    - do you see {the} over {other}?
    - is {the} higher up than {other}?

is below
    + is {the} below {other}?
    + is {the} under {other}?
    + do you see {the} below {other}?
    + is {the} lower than {other}?
    + is {the} further down than {other}?
    - do you see {the} under {other}?

is bigger
    + is {the} bigger than {other}?
    + is {the} larger than {other}?
    + is {other} smaller than {the}?
    + does {the} look bigger than {other}?
    + next to {other}, is {the} the bigger one?
    - is {the} the bigger one, next to {other}?
    - does {the} look larger than {other}?

colour
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
    + what shape is {the}?
    + which shape is {the}?
    + what is the shape of {the}?
    + what shape has {the}?
    + what shape does {the} have?
    - which shape does {the} have?
    - tell me the shape of {the}.
    - which shape has {the}?

what is the coloured shape
    + what is {the}?
    + {the}: what is it?
    + which one is {the}?
    - what is {the} called?

where
    + where is {the}?
    + where is {the} {place}?
    + where do you see {the}?
    + in which part of the {picture} is {the}?
    + on which side is {the}?
    - where can you see {the}?
    - in which part is {the}?

which is bigger
    + which is bigger, {the} or {other}?
    + what is bigger, {the} or {other}?
    + which one is larger, {the} or {other}?
    + which is larger: {the} or {other}?
    - which one is bigger, {the} or {other}?
    - what is larger, {the} or {other}?

which is smaller
    + which is smaller, {the} or {other}?
    + what is smaller, {the} or {other}?
    + which one is smaller: {the} or {other}?
    - which one is smaller, {the} or {other}?

more
    + are there more {things} than {others}?
    + do you see more {things} than {others}?
    + is the number of {things} larger than the number of {others}?
    - can you see more {things} than {others}?
    - are more {things} than {others} {place}?

same colour
    + do {the} and {other} have the same color?
    + are {the} and {other} of the same color?
    + is {the} the same color as {other}?
    + have {the} and {other} got the same colour?
    - do {the} and {other} have the same colour?
    - is {the} of the same color as {other}?

present
    + is there a {thing}?
    + is there a {thing} in the image?
    + is a {thing} present?
    + does the image contain a {thing}?
    + do you see a {thing}?
    + can you see a {thing} {place}?
    - do you see a {thing} {place}?
    - can you see a {thing}?

absent
    + is there not a {thing}?
    + is there not a {thing} in the image?
    + is no {thing} present?
    + does the image not contain a {thing}?
    + is there no {thing}?
    - is there no {thing} {place}?
    - is there not a {thing} {place}?

doing
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
