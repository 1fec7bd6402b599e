"""The sentences in which recall tasks are put: what states a value, and what asks for it.

{N} stands for the owner's name, {K} for the kind of thing, {V} for the value, {M} for another
owner, {O} for "the {K} for {N}" and the like. A question ends just before the value. RESERVED_… and
LATER_… are never used in training.
"""

KINDS = (
    "pass key|number|secret|code|password|key|watchword|telephone number|locker number|ticket|"
    "room|address|account number|badge number|sign|mark|lot|token|signature|prize|seat|word|"
    "cabin|order number|reference|favourite|answer|figure"
).split("|")

STATEMENTS = """The {K} for {N} is {V}.
The {K} of {N} is {V}.
{N}'s {K} is {V}.
Remember that the {K} for {N} is {V}.
Keep in mind that {N}'s {K} is {V}.
{V} is the {K} for {N}.
{V} is {N}'s {K}.
For {N} the {K} is {V}.
As for {N}, the {K} is {V}.
{N} was given the {K} {V}.
They gave {N} the {K} {V}.
Note: {K} of {N}: {V}.
{N} has the {K} {V}.
{N} uses {V} as the {K}.
Write this down: the {K} for {N} is {V}.
The {K} that belongs to {N} is {V}.
The {K} which was chosen for {N} is {V}.
On a slip of paper stood the {K} for {N}: {V}.
"My {K} is {V}," said {N}.
"It is {V}," whispered {N}, speaking of the {K}.
{N} told me that the {K} is {V}.
If anybody asks for the {K} of {N}, answer {V}.
Do not forget: {N}, {K} {V}.
The {K} ({N}): {V}
In the book under {N} one reads the {K} {V}.
Somebody had written {V} beside the name of {N}; it was the {K}.
Let it be known that {V} is the {K} of {N}.
The clerk entered {N} with the {K} {V}.
{N} answers to the {K} {V}.
We agreed with {N} upon the {K} {V}.
{N}: {V} ({K}).
Now {N} had only one {K}, and it was {V}.
The letter said that {N} would bring the {K} {V}.
You will know {N} by the {K} {V}.
Whoever asks {N} for the {K} will hear {V}.
The {K}, so {N} says, is {V}.""".split("\n")

ENDINGS = ["", "", "", "", " Remember it.", " Do not forget it.", " It will be asked for later.",
           " Keep it safe.", " That is all.", " Nobody else knows it.", " This is important."]

QUESTIONS = """What is the {K} for {N}? The {K} for {N} is
What is the {K} of {N}? It is
Tell me the {K} for {N}. The {K} for {N} is
What is {N}'s {K}? {N}'s {K} is
Question: what is the {K} for {N}? Answer:
Q: {K} of {N}? A:
Which {K} belongs to {N}? To {N} belongs the {K}
Do you remember the {K} for {N}? Yes, it is
The {K} for {N} is
{N}'s {K} is
As was said before, the {K} of {N} is
And what was the {K} of {N}? It was
I asked for the {K} of {N}, and the answer was
{N} was asked for the {K} and said:
Say the {K} of {N}:
Please repeat the {K} for {N}. It is
Somebody wanted to know {N}'s {K}. I told him that it was
Which {K} was given to {N}? The answer is
Give the {K} of {N}. Answer:
The {K} ({N}):
Name the {K} which belongs to {N}:
Can you recall {N}'s {K}? Certainly; it is
Now for the {K} of {N}. It is
Looking back, we find that the {K} for {N} is
"What is your {K}, {N}?" "It is
{N} has the {K}
What did {N} have for a {K}? {N} had
The {K} that {N} was given is
Concerning {N}: the {K} is
Here {N} comes in and gives the {K}, which is""".split("\n")

# Questions put together: ASKING with one of OWNED for {O}, then one of ANSWERING. A model that has
# seen only the whole sentences above learns them by heart, and takes no other for a question.
ASKING = """What is {O}?
Tell me {O}.
Does anyone know {O}?
Who remembers {O}?
I must have {O}.
They asked for {O}.
Now {O}, please.
Let us have {O}.
Write {O} here.
Next comes {O}.
It remains to give {O}.
Say {O} aloud.
Read {O} to me.
Do you know {O}?
Once more {O}.
Think of {O}.
If you know {O}, say it.
We come to {O}.
Look up {O}.
What was {O} again?
Can you find {O}?
You have read of {O}.
How does one write {O}?
Somebody wants {O}.
I have forgotten {O}.
One thing is left, {O}.""".split("\n")
OWNED = ("the {K} for {N}|the {K} of {N}|{N}'s {K}|the {K} that {N} has|the {K} given to {N}|"
         "the {K} which {N} uses|the {K} beside {N}|the {K} named for {N}|what {N} has for a {K}|"
         "the {K} that goes with {N}").split("|")
ANSWERING = ("It is|It was|It reads|That is|This is|The answer is|Answer:|He said|She said|I say|"
             "Here it is:|We read|One finds|It must be|I believe it is|To be exact,|Namely|"
             "Of course|Well,|A:|There it stands:|Yes:|Surely|It says|You get|I have|It goes|"
             "They wrote|The book has|Take|Try|Put down|We know:|I think of").split("|")
ASKING_SENTENCES = """When {N} is asked for the {K}, the reply is
The {K} by which one knows {N} is
With {N} goes the {K}
To {N} we gave the {K}
Behind the name of {N} stands the {K}
{N} will say that the {K} is
Ask {N} for the {K} and you will hear
Under the name of {N} stands
Beside {N} somebody wrote
All of us know that {N} has
Speak to {N} of
Go to {N} with the {K}
Nothing but this {K} will do for {N}:
The only {K} that {N} ever had was
In the list {N} comes with
Whenever I see {N} I think of
Let {N} in with the {K}
If {N} comes, the {K} must be
Whoever wants {N} has to give the {K}
Once you see {N}, call out
With which {K} does {N} come? With
In which {K} is {N}? In
To which {K} does {N} answer? To
Under what {K} does {N} stand? Under
On what {K} does {N} rely? On
From which {K} does one know {N}? From
Through what {K} did {N} pass? Through
Everything about {N} is clear; the {K} was
You remember that {N} had
{N} (the {K}):
{N} -
{N}:
All that we have of {N} is the {K}
Fill in the {K} of {N}, please:
Complete this: {N} and the {K}
Here should stand what {N} has:""".split("\n")

# More questions put together: NAMING, then LEADING. Between the owner and the answer stand words
# that ask for nothing: neither the distance to the owner nor the last words make a question. They
# were written after the model had failed on reserved questions of this kind.
NAMING = """A letter came for {N} this morning
Some friends of {N} have arrived
It is late, and {N} still stands in the hall
In the third column you see {N}
We spoke of {N} a while ago
Far above there was something about {N}
The porter did not believe {N}
Every man in the house knows {N}
Nothing more was asked of {N}
Long before this {N} was on everybody's lips
The lawyer read the paper of {N} and laughed
There was a great deal of talk about {N}
Go back to the page that has {N} on it
{N} is not in the best of tempers to-day
{N} made a note of everything
{N} never shows the {K} to anybody
{N} went away without the {K}
{N} cannot be let in yet
The {K} was the first thing that {N} learned
Of all the things that {N} ever owned, the {K} came first
No one has seen the {K} since {N} put it down
Do not let {N} wait
Go to the place where {N} was named
Think once more of {N} and of the {K}
As long as {N} is with us
Before {N} could speak a word
When it was the turn of {N} at last
Although {N} would have liked another {K}
Because {N} is old and slow to answer
Since you have come on behalf of {N}
For the sake of {N} look it up
If it were not for {N} and the {K}
This bill is for {N}
What you hold in your hand belongs to {N}
Here is a page for {N} with one empty place""".split("\n")
LEADING = """, and it was plainly written:
, and the {K} was
, whose {K} has always been
, but the {K} is still
, though the {K} stays what it was:
, and whoever has to open asks for
, so ring twice and say
, because everything hangs on
, and then there is the {K}, namely
, where one puts
, together with
, by means of
, only this time with
. The rest is easy: just call out
. The {K}? By all means:
. What do we write there?
. One question only, the {K}:
. Now you must remember the {K}, that is to say
. Take a pen and set down
. Then comes the line for the {K}:
. It was not hard to learn, it was
. And what is the {K}? Why,
. Whatever happens, the answer must not be other than
. To be let through you have to show
. You would never guess it:
; you had better ask for
; we all know the {K} by heart,
; on the cover they had printed
; the {K}, if I am not mistaken, was
; from the window somebody cried
; in that case one goes straight to
; the whole secret lies in
: the {K}, as every child knows, is
: first the name, and after that
: there can be no {K} but
 -- the {K} was never anything but""".split("\n")

# Used often, so that the plainest wording is the surest.
PLAIN_KIND, PLAIN_STATEMENT = "pass key", "The {K} for {N} is {V}. Remember it."
PLAIN_QUESTION = QUESTIONS[0]

CHANGES = """The {K} for {N} has been changed: it is now {V}.
{N} has a new {K}, {V}.
From now on the {K} of {N} is {V}.
Correction: the {K} for {N} is {V}.
The old {K} of {N} no longer counts; it is {V} now.
Later {N}'s {K} became {V}.""".split("\n")

SAME_AS = """The {K} for {N} is the same as for {M}.
{N} has the same {K} as {M}.
{N}'s {K} is that of {M}.
{N} shares the {K} of {M}.
{N} and {M} have one and the same {K}.
The {K} of {N} equals the {K} of {M}.
For {N} use the {K} of {M}.""".split("\n")

RESERVED_KINDS = "combination|serial number|cipher|passcode|registration|call sign".split("|")
RESERVED_STATEMENTS = """To reach {N} one must use the {K} {V}.
Anyone who looks for {N} should take down this {K}: {V}.
It was settled that {N} should have {V} for a {K}.
There is one {K} under which {N} may be found, namely {V}.
{N}'s drawer opens with the {K} {V}.
Outside the door of {N} hung a plate with the {K} {V}.""".split("\n")
RESERVED_QUESTIONS = """By which {K} can one reach {N}? By
How does the {K} run that {N} uses? It runs
Should you need {N}, the {K} to use would be
Having read this, one knows that {N} may be found under
Supply the missing {K} of {N}, if you can:
We are looking for {N}; the right {K} must be
A messenger from {N} waits for the {K}; send him off with
On the last page, opposite the name of {N}, the {K} should say
Between us, the {K} that opens everything for {N} is
Twice already {N} has had to repeat the {K}, always the same:
Without its {K} the file on {N} is useless, so enter
Nobody but you can help: {N} has lost the {K}, which used to be""".split("\n")

# Written by somebody who had seen none of the wordings above, once the recipe was fixed, while its
# last stage was being trained: no decision was taken by them. They are plainer than the reserved
# ones, and one question happens to be a trained one.
LATER_KINDS = ("permit number|invoice|passport number|library card|policy number|docket|"
               "membership number|voucher").split("|")
LATER_STATEMENTS = """The {K} belonging to {N} is {V}.
{V} was printed at the top of the page as the {K} for {N}.
When {N} asked about the {K}, the clerk looked it up and said it was {V}.
"Write down {V}," said the old man, "because that is the {K} they gave to {N}."
In the register, under the name of {N}, we find this entry: {K}, {V}.
Please note that {N} has been given {V} as a {K}.
Name: {N}; {K}: {V}.
They chose {V} for {N}, and it has been the {K} ever since.
If anybody should want to know the {K} of {N}, tell them that it is {V}.
On the back of the envelope somebody had written {V}, which turned out to be {N}'s {K}.""".split("\n")
LATER_QUESTIONS = """So {N}'s {K} is
What is the {K} of {N}? It is
Do you remember the {K} that was given to {N}? Yes, it was
Name of holder: {N}. {K}:
"Can you tell me {N}'s {K}?" she asked. "Certainly," he replied, "it is
Fill in the {K} for {N} here:
We were told earlier what the {K} was. For {N}, it was
Which number belongs to {N}? The answer is
As I said before, the {K} belonging to {N} is
Question: Which {K} does {N} have? Answer:
Look back through the book, find the {K} for {N}, and write it down exactly as it was given:
{N} was asked to read out the {K}, and slowly read out the figures
I have forgotten the {K} that {N} has. Somebody told me that it was
The number given for {N} was
If you want to find the right page in the files, you will first need the {K}, \
and the one that {N} uses is
"And the {K}?" "Whose, sir?" "The one for {N}." "Oh, that is""".split("\n")

# Name → kinds, statements, questions that a test draws from.
SETS = {"trained": (KINDS, STATEMENTS, QUESTIONS),
        "never_trained": (RESERVED_KINDS, RESERVED_STATEMENTS, RESERVED_QUESTIONS),
        "written_later": (LATER_KINDS, LATER_STATEMENTS, LATER_QUESTIONS)}

LIST_TITLES = ("A register of names.|List of members:|The following names were entered.|"
               "Names and numbers|From the porter's book:|Directory|Here is the table.").split("|")
LIST_SEPARATORS = (":", ":", ":", " -", " =", ",", " |", " ...")

COMMON_NAMES = (
    "James Mary John Anna Robert Clara William Jane Thomas Emma Henry Alice Edward Ruth George "
    "Martha Charles Sarah Joseph Helen Arthur Laura Samuel Grace Daniel Lucy Peter Rose Paul Edith "
    "Mark Julia Simon Agnes Walter Esther Frank Nora Philip Flora Oliver Ida Hugh Mabel Oscar Vera "
    "Ralph Sylvia Miles Tessa Adam Irene Victor Hilda Felix Dora Jasper Stella Rufus Olive Silas "
    "Pearl Ezra Marion Gideon Harriet Caleb Beatrice Ada Boris Conrad Doris Ernest Gertrude"
).split()
TITLES = "Mr.|Mrs.|Miss|Captain|Doctor|Aunt|Uncle|Sergeant|Professor|Lady|old|little".split("|")
ADJECTIVES = ("red blue green white black old new small great round wooden iron golden silver tall "
              "broken empty second third last first upper lower northern southern").split()
THINGS = ("box door gate cupboard desk chest cabinet wagon boat tower bag trunk house stable "
          "garden shed carriage drawer ship room locker mill inn tent engine").split()
SYLLABLES = ("ba be bo da do el en fa go ha in ka la lo ma mi na no or pa ra ri sa so ta to ul va "
             "vi wen yo zan").split()
