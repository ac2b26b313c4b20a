"""Questions as people talk: longer, polite, indirect. The embedded model was never trained on any of them.

A question is an opening, a frame around an indirect clause ("could you tell me" ... "what kind of animal i am looking at"),
and an ending. Openings, frames, endings and clauses come in three sets that share no line: `selector` may train the Selector,
`calibration` is for choices, `test` for measuring.
"""

from __future__ import annotations

from recipes.mini.questions import Asker
from recipes.mini.wordings import PICTURES, PLACES, WORDINGS

PARTS = {"1": "selector", "2": "calibration", "3": "test"}


def _sets(text: str) -> dict[str, tuple[str, ...]]:
    """Lines that begin with 1, 2 or 3 -> part -> lines."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return {part: tuple(line[2:] for line in lines if line[0] == digit) for digit, part in PARTS.items()}


def _clauses(text: str) -> dict[str, dict[str, tuple[str, ...]]]:
    """`name` lines, each followed by its lines of `_sets`."""
    found: dict[str, list[str]] = {}
    name = ""
    for line in filter(None, (line.strip() for line in text.splitlines())):
        if line[0] in PARTS:
            found[name].append(line)
        else:
            name = line
            found[name] = []
    return {name: _sets("\n".join(lines)) for name, lines in found.items()}


OPENINGS = _sets("""
1 hi!
1 good morning,
1 excuse me,
1 sorry to bother you again,
1 ok so my daughter showed me this and
1 i found this on my phone and
1 well,
1 my eyes are not what they used to be, so
1 quick question:
1 hello again,
1 dear friend,
1 oh, one moment,
1 my son drew my attention to this, and
1 look at this:
1 i just received this by mail and
1 before i forget,
1 you are so good at this, so
1 honestly,
1 okay then,
1 i know this sounds strange, but
1 if you have a second,
1 this came up at dinner and
1 as far as i understand it you see pictures, so
1 right,
1 now,
1 hmm,
1 listen,
1 i am standing here with my grandmother and
1 my screen is broken and
1 we are playing a game and
2 hey there,
2 pardon me,
2 so here is the thing:
2 my neighbour sent me this one and
2 good evening!
2 i am a little confused, and
2 alright, next one:
2 sorry, one more:
3 hello there!
3 good afternoon,
3 i hope you don't mind, but
3 a friend of mine sent me this a minute ago and
3 i can't see very well, so
3 um, okay,
3 dear assistant,
3 one last thing before i go:
3 thanks for your help so far!
""")

FRAMES = _sets("""
1 could you tell me {clause}?
1 i would like to know {clause}.
1 can you see {clause}?
1 do you have any idea {clause}?
1 please let me know {clause}.
1 i am trying to find out {clause}.
1 would you mind telling me {clause}?
1 what i want to know is {clause}.
1 tell me {clause}, would you?
1 it would be great to hear {clause}.
1 i cannot figure out {clause}.
1 can anybody say {clause}?
1 my wife keeps asking {clause}.
1 the question is {clause}.
1 please look closely and explain {clause}.
1 do you think you can work out {clause}?
1 i need somebody to tell me {clause}.
1 nobody here can say {clause}.
1 all i need is {clause}.
1 would you know {clause}?
1 help me understand {clause}.
1 kindly state {clause}.
1 i have no clue {clause}.
1 from what you see, {clause}?
1 give me your best guess {clause}.
1 it is hard for me to see {clause}.
1 we would all like to hear {clause}.
2 may i ask {clause}?
2 can you help me figure out {clause}?
2 i am curious {clause}.
2 would it be possible to say {clause}?
2 any chance you know {clause}?
2 tell us, if you can, {clause}.
3 i was wondering {clause}.
3 would you be so kind as to tell me {clause}?
3 could you please have a look and say {clause}?
3 i'd really love to find out {clause}.
3 is there any way you could describe {clause}?
3 we have been arguing about {clause}, so what do you say?
3 my question would be {clause}.
""")

ENDINGS = _sets("""
1 thanks!
1 thank you very much.
1 take your time.
1 i am not sure myself.
1 just a short answer, please.
1 i cannot make it out.
1 please be honest.
1 you are a great help.
1 my phone is about to die.
1 i will wait.
1 that is all.
1 i have to write it down.
1 it is for my sister.
1 i forgot to ask earlier.
1 if not, that is fine too.
1 bless you.
1 no need to be polite.
1 it matters to me.
1 the light is bad in here.
1 i bet you know.
1 one word is enough.
2 cheers.
2 many thanks in advance!
2 it would help me a lot.
2 no hurry.
2 i looked twice and still don't know.
3 that would be lovely, thank you.
3 i really appreciate it!
3 i need it for my homework.
3 sorry if that is a silly question.
3 my glasses are in the other room.
3 a single word will do.
""")

CLAUSES = _clauses("""
what
1 what has been put {place}
1 what the main object is
1 the name of what i am holding
1 which object we have here
1 what i am looking at {place}
1 which thing it is that we see {place}
1 what kind of thing this is
2 what sort of object i have {place}
2 what this thing might be called
3 what kind of animal or thing i am looking at here
3 what it actually is that somebody put {place}
3 how one would name the object in front of me
is there
1 whether or not {a} is visible {place}
1 if you can make out {a}
1 whether {a} is one of the things {place}
1 whether you can see {a} {place}
1 if there happens to be {a} {place}
2 whether {a} can be found {place}
2 if you notice {a} anywhere
3 whether there might be {a} somewhere {place}
3 if by any chance {a} shows up {place}
is it
1 whether you think it is {a}
1 if that thing could be {a}
1 whether it is right to call it {a}
1 whether this is {a}
1 if the thing {place} is {a}
2 whether you would call this {a}
2 if we are looking at {a}
3 whether what i see there is {a}
3 if i am right that this would be {a}
can it fly
1 if it could take off and fly
1 whether this is a flying thing
1 whether it can fly
2 if this thing is able to fly
3 whether something like that would be able to fly through the air
wheels
1 if you can find wheels on it
1 whether it rolls on wheels
1 whether it has wheels
2 if this thing comes with wheels
3 whether a thing like that would have any wheels on it
legs
1 if you count four legs
1 whether it stands on four legs
1 whether it has four legs
2 if this one walks on four legs
3 whether the one i see there has got four legs
alive
1 if it is something living
1 whether it breathes
1 whether it is alive
2 if this is a living thing
3 whether what is shown there is something that lives
machine
1 if it is a machine
1 whether people built this machine
1 whether this is a machine
2 if we have a machine here
3 whether what is shown there would count as a machine
kind
1 which category this object is in
1 what sort of thing that is
1 what kind of thing it belongs to
2 which type of thing i have here
3 what general kind of thing somebody put {place}
count
1 what the number of {things} is
1 how many {things} are visible
1 the count of {things} {place}
1 how many {things} there are {place}
1 how many {things} you can see
2 how many {things} i have {place}
2 the number of {things} {place}
3 how many {things} somebody has put {place} altogether
3 how many {things} you would count if you looked closely
left of
1 which object is left of {the}
1 what stands on the left side of {the}
1 what {the} has to its left
1 what is to the left of {the}
2 which thing sits left of {the}
3 what somebody would find if they looked just left of {the}
right of
1 which object is right of {the}
1 what stands on the right side of {the}
1 what {the} has to its right
1 what is to the right of {the}
2 which thing sits right of {the}
3 what somebody would find if they looked just right of {the}
above
1 which object is above {the}
1 what is over {the}
1 what {the} has above it
1 what is above {the}
2 which thing sits above {the}
3 what somebody would find if they looked up above {the}
below
1 which object is below {the}
1 what is under {the}
1 what {the} has below it
1 what is below {the}
2 which thing sits below {the}
3 what somebody would find if they looked down below {the}
leftmost
1 which object is farthest left
1 what is on the very left
1 what is furthest to the left
2 which thing is the leftmost one
3 what it is that sits furthest over on the left
rightmost
1 which object is farthest right
1 what is on the very right
1 what is furthest to the right
2 which thing is the rightmost one
3 what it is that sits furthest over on the right
topmost
1 which object is at the top
1 what is the highest thing
1 what is highest up
2 which thing is the topmost one
3 what it is that sits up there at the very top
lowest
1 which object is at the bottom
1 what is the lowest thing
1 what is lowest down
2 which thing is the lowest one
3 what it is that sits down there at the very bottom
biggest
1 which object is the largest
1 what is the biggest thing {place}
1 which thing is the biggest
2 what is the largest thing {place}
3 which of all these things would be the biggest one
smallest
1 which object is the smallest
1 what is the littlest thing
1 which thing is the smallest
2 what is the tiniest thing {place}
3 which of all these things would be the smallest one
is left of
1 if {other} has {the} on its left
1 whether {the} is on the left side of {other}
1 whether {the} is left of {other}
2 if {the} sits to the left of {other}
3 whether somebody put {the} over on the left of {other}
is right of
1 if {other} has {the} on its right
1 whether {the} is on the right side of {other}
1 whether {the} is right of {other}
2 if {the} sits to the right of {other}
3 whether somebody put {the} over on the right of {other}
is above
1 if {the} is over {other}
1 whether {the} is higher up than {other}
1 whether {the} is above {other}
2 if {the} sits higher than {other}
3 whether somebody put {the} up above {other}
is below
1 if {the} is under {other}
1 whether {the} is lower down than {other}
1 whether {the} is below {other}
2 if {the} sits lower than {other}
3 whether somebody put {the} down below {other}
is bigger
1 if {the} is larger than {other}
1 whether {the} takes more room than {other}
1 whether {the} is bigger than {other}
2 if {the} is the larger one compared with {other}
3 whether {the} would look bigger to you than {other} does
colour
1 the color of this thing
1 in what color this comes
1 what color it is
2 which color this thing has
3 what color you would say that the thing in front of me has
colour of
1 what the color of {the} is
1 how {the} is colored
1 in what color {the} comes
1 what color {the} is
1 which color {the} has
2 the color of {the}
3 what color you would say {the} has
3 in which color {the} was painted
mood
1 what this face is feeling
1 which emotion we see here
1 how this face feels
2 what mood this face is in
3 how you would say that the one in the picture feels today
read
1 what words or numbers are there
1 what stands on the sign
1 the writing {place}
1 what it says {place}
1 what is written there
2 what the writing says
2 what i should read there
3 what somebody has written {place}
3 what the text in front of me would say if i could read it
word
1 what the word is
1 the word that stands there
1 which word is written {place}
2 what word i should read there
3 which word it is that somebody has written there
number
1 what the number is
1 the number that stands there
1 which number is written {place}
2 what number i should read there
3 which number it is that somebody has written there
price
1 what the price is
1 how expensive it is
1 what it costs
2 how much i would have to pay
3 how much money they would want from me for this
time
1 what the clock says
1 the time that is shown
1 what time it is
2 which time is shown
3 what time the thing in front of me says it would be
shape
1 the shape of this thing
1 which form this has
1 what shape this is
2 which shape i have {place}
3 what you would call the shape that somebody has drawn there
shape of
1 what form {the} has
1 which shape {the} is
1 what shape {the} has
2 the shape of {the}
3 what shape you would say {the} has
what is the coloured shape
1 the shape of {the}
1 what form {the} has
1 what shape {the} is
2 which shape we see in {the}
3 what you would call {the} that somebody has drawn there
where
1 what place {the} has {place}
1 where to look for {the}
1 on what side to find {the}
1 where {the} is
1 on which side {the} is
2 where i find {the}
2 the place of {the} {place}
3 whereabouts {the} would be {place}
3 in which part of the picture somebody put {the}
which is bigger
1 whether {the} or {other} is bigger
1 the bigger one of {the} and {other}
1 which is bigger, {the} or {other}
2 which one is the larger of {the} and {other}
3 which of the two would look bigger to you, {the} or {other}
which is smaller
1 whether {the} or {other} is smaller
1 the smaller one of {the} and {other}
1 which is smaller, {the} or {other}
2 which one is the tinier of {the} and {other}
3 which of the two would look smaller to you, {the} or {other}
more
1 if {things} are more than {others}
1 whether the number of {things} is above that of {others}
1 whether there are more {things} than {others}
2 if the {things} outnumber the {others}
3 whether you would count more {things} than {others} there
same colour
1 if {the} and {other} are of one color
1 whether {the} is colored like {other}
1 whether {the} and {other} have the same color
2 if {the} shares its color with {other}
3 whether you would say that {the} and {other} have got the same color
present
1 if a {thing} is visible
1 whether you can find a {thing} {place}
1 whether there is a {thing} {place}
2 if you notice a {thing} anywhere
3 whether there might be a {thing} somewhere {place}
absent
1 if there is no {thing} at all
1 whether a {thing} is missing {place}
1 whether it is true that there is no {thing} {place}
2 if it is right that no {thing} can be seen
3 whether i am right that there would not be a {thing} {place}
doing
1 how old {the} is
1 what {the} would like
1 when somebody bought {the}
1 what {the} is called by its friends
1 what {the} is thinking about
1 who owns {the}
2 why {the} came here
2 what {the} will do tomorrow
3 what {the} did last summer
3 how much somebody paid for {the}
unknowable
1 who made this
1 how far away it is
1 what happens next
1 what i should do about it
1 how it smells
1 the name of the person who owns this
1 who took this {picture}
1 when this {picture} was taken
2 what day it was then
2 which country this is from
3 what the weather was like on that day
3 who was standing behind the camera
3 what my friend was thinking when this was sent
3 how i should spend the rest of my evening
""")


class Talker(Asker):
    """Words the same questions as `Asker`, in conversation. `part`: selector, calibration or test. For the Selector's training
    a third are plain training questions between an opening and an ending."""

    def word(self, name: str, **words: str) -> str:
        plain = self.part == "selector" and self.rng.random() < 0.33
        wording = self.rng.choice(WORDINGS[name]["train"] if plain else CLAUSES[name][self.part])
        text = wording.format(place=self.rng.choice(PLACES), picture=self.rng.choice(PICTURES), **words)
        if not plain:
            text = self.rng.choice(FRAMES[self.part]).format(clause=text)
        if self.rng.random() < 0.6:
            text = f"{self.rng.choice(OPENINGS[self.part])} {text}"
        if self.rng.random() < 0.5:
            text = f"{text} {self.rng.choice(ENDINGS[self.part])}"
        return text
