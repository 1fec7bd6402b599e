"""Training documents: book text, and recall tasks hidden in book text, in tens of wordings.

Every document is T + 1 token ids, the first of them BOS, with one loss weight per id. What cannot
be foreseen (a name or a value when it is first stated) has weight 0; an answer ANSWER_WEIGHT.
"""

import re

import numpy as np

from . import wordings
from .book_text import BookText
from .tokenizer import BOS

ANSWER_WEIGHT = 4.0
REPEAT_WEIGHT = 1.5
TEMPLATE_WEIGHT = 0.3  # Which wording comes next is chance; learning it by heart is no aim.
SLOT = re.compile(r"(\{[NMV]\})")


class Tasks:
    """Makes documents of every kind. The same seed and cursor give the same documents."""

    def __init__(self, tokenizer, book_ids, value_words, seed=0, cursor=0):
        self.tokenizer, self.words = tokenizer, value_words
        self.book = BookText(book_ids, tokenizer, seed, cursor)
        self.rng = np.random.default_rng([seed, cursor])
        made_up = np.random.default_rng(0)
        self.made_up = sorted(
            {"".join(made_up.choice(wordings.SYLLABLES, made_up.integers(2, 4))).capitalize()
             for _ in range(3000)}
        )
        self.known = {}
        self.paragraph = self.encode("\n\nx")[:-1]

    # ---- Words, names and values -------------------------------------------------------------

    def encode(self, text):
        """Ids of a short text, remembered: the same pieces come again and again."""
        ids = self.known.get(text)
        if ids is None:
            ids = self.tokenizer.encode(text)
            if len(self.known) < 200_000:
                self.known[text] = ids
        return ids

    def pick(self, choices):
        return choices[self.rng.integers(len(choices))]

    def chance(self, probability):
        return self.rng.random() < probability

    def owner(self):
        """A name, common or made up, sometimes with a title; or a thing such as "the red box"."""
        if self.chance(0.15):
            return f"the {self.pick(wordings.ADJECTIVES)} {self.pick(wordings.THINGS)}"
        name = self.pick(wordings.COMMON_NAMES if self.chance(0.5) else self.made_up)
        return f"{self.pick(wordings.TITLES)} {name}" if self.chance(0.15) else name

    def digits(self, count):
        return "".join(str(d) for d in self.rng.integers(0, 10, count))

    def value(self):
        """Mostly 4 to 6 digits, else a word or a code such as KX-482."""
        kind = self.rng.random()
        if kind < 0.65:
            return self.digits(5 if kind < 0.4 else int(self.rng.integers(4, 7)))
        if kind < 0.85:
            return self.pick(self.words)
        places = self.rng.integers(0, 26, self.rng.integers(1, 4))
        letters = "".join(chr(ord("A") + int(place)) for place in places)
        joint = self.pick(["-", "", "/"])
        return letters + joint + self.digits(int(self.rng.integers(1, 5)))

    def kind(self, plain):
        """What is asked for; any word may be it, so that an unknown one is taken for it too."""
        if plain:
            return wordings.PLAIN_KIND
        return self.pick(self.words if self.chance(0.25) else wordings.KINDS)

    def owners(self, count):
        """`count` different owners."""
        found = {}
        while len(found) < count:
            found[self.owner()] = True
        return list(found)

    # ---- Sentences ---------------------------------------------------------------------------

    def render(self, template, kind, owner, value="", other="", lead="", weights=None,
               template_weight=TEMPLATE_WEIGHT):
        """A template as [(ids, weight)]. `weights` are those of owner, value and other owner."""
        weights = weights or {"{N}": 0.0, "{V}": 0.0, "{M}": 0.0}
        texts = {"{N}": owner, "{V}": value, "{M}": other}
        parts, pending = [], lead
        for piece in SLOT.split(template.replace("{K}", kind)):
            if piece not in texts:
                pending += piece
                continue
            text = texts[piece]
            if not parts and not pending.strip():
                text = text[0].upper() + text[1:]
            space = pending.endswith(" ")
            literal = pending[:-1] if space else pending
            if literal:
                parts.append((self.encode(literal), template_weight))
            parts.append((self.encode(" " + text if space else text), weights[piece]))
            pending = ""
        if pending:
            parts.append((self.encode(pending), template_weight))
        return parts

    def statement(self, template, kind, owner, value, other=""):
        """A statement between two pieces of book text: its own paragraph, or inside one."""
        if self.chance(0.3):
            return self.render(template, kind, owner, value, other, lead=" "), False
        return self.render(template, kind, owner, value, other), True

    def question(self, template, kind, owner, value):
        """A question and its answer, as a paragraph of its own.

        How a question goes on is not learned: an answer may come after any of its words.
        """
        parts = self.render(template, kind, owner, template_weight=0.0)
        lead = [(self.paragraph, 1.0)] if self.chance(0.8) else [(self.encode("\nx")[:-1], 1.0)]
        return lead + parts + [(self.encode(" " + value), ANSWER_WEIGHT), (self.encode("."), 1.0)]

    # ---- Documents ---------------------------------------------------------------------------

    def finish(self, parts, length):
        """Joins the parts and cuts or fills them to length + 1 ids."""
        ids = np.concatenate([np.asarray(p, np.int64) for p, _ in parts])[: length + 1]
        weights = np.concatenate([np.full(len(p), w, np.float32) for p, w in parts])[: length + 1]
        if len(ids) < length + 1:
            rest = np.concatenate([self.paragraph, self.book.take(length + 1 - len(ids))])
            rest = rest[: length + 1 - len(ids)]
            ids = np.concatenate([ids, rest])
            weights = np.concatenate([weights, np.ones(len(rest), np.float32)])
        return ids, weights

    def pieces(self, count, cuts):
        """`count` ids of book text in cuts + 1 pieces, cut after sentences where one is near."""
        ids = self.book.take(count)
        places = np.sort(self.rng.integers(0, count + 1, cuts))
        stops = np.flatnonzero(ids == self.book.stop) + 1
        if len(stops):
            near = stops[np.minimum(np.searchsorted(stops, places), len(stops) - 1)]
            places = np.sort(np.where(np.abs(near - places) < 40, near, places))
        return np.split(ids, places)

    def hide(self, statements, questions, early, length):
        """Statements at random places of book text, the questions at the end.

        `early` are questions asked once every statement before index early[0] has been made.
        Returns None if the sentences leave no room for book text.
        """
        sentences = [p for s, _ in statements for p in s] + [p for q in questions for p in q]
        sentences += early[1] if early else []
        used = sum(len(ids) for ids, _ in sentences) + 2 * len(self.paragraph) * len(statements)
        room = length - used - 2
        if room < 8:
            return None
        pieces = self.pieces(room, len(statements))
        parts = [([BOS], 0.0), (pieces[0], 1.0)]
        for i, (sentence, paragraph) in enumerate(statements):
            mark = [(self.paragraph, 1.0)] if paragraph else []
            parts += mark + sentence + mark
            if early and early[0] == i + 1:
                parts += early[1] + [(self.paragraph, 1.0)]
            parts.append((pieces[i + 1], 1.0))
        for question in questions:
            parts += question
        return self.finish(parts, length)

    def passkey(self, length):
        """1 to 12 keys, all asked at the end; some are changed on the way, and the last counts."""
        keys = int(self.rng.integers(1, max(2, min(12, length // 64)) + 1))
        plain = self.chance(0.2)
        facts = [[owner, self.kind(plain or self.chance(0.2)), self.value()]
                 for owner in self.owners(keys)]
        statements = []
        for owner, kind, value in facts:
            template = wordings.PLAIN_STATEMENT if plain else (
                self.pick(wordings.STATEMENTS) + self.pick(wordings.ENDINGS))
            statements.append(self.statement(template, kind, owner, value))
        early = None
        if keys > 1 and self.chance(0.3):
            at = int(self.rng.integers(1, keys))
            early = (at, self.ask(facts[int(self.rng.integers(at))], plain))
        elif self.chance(0.25):
            fact = facts[int(self.rng.integers(keys))]
            fact[2] = self.value()
            template = self.pick(wordings.CHANGES if self.chance(0.7) else wordings.STATEMENTS)
            statements.append(self.statement(template, fact[1], fact[0], fact[2]))
        questions = [self.ask(facts[i], plain) for i in self.rng.permutation(keys)]
        return self.hide(statements, questions, early, length) or self.register(length)

    def asking(self):
        """The template of a question: a whole sentence or one put together; most of them garbled."""
        kind = self.rng.random()
        if kind < 0.4:
            template = self.pick(wordings.QUESTIONS if kind < 0.2 else wordings.ASKING_SENTENCES)
        elif kind < 0.7:
            owned = self.pick(wordings.ASKING).replace("{O}", self.pick(wordings.OWNED))
            template = f"{owned} {self.pick(wordings.ANSWERING)}"
        else:
            template = self.pick(wordings.NAMING) + self.pick(wordings.LEADING)
        return self.garbled(template) if self.chance(0.75) else template

    def garbled(self, template):
        """The template with words replaced, left out or put in, the kind of key among them.

        So that a question is known by whom it is about, and not by its words.
        """
        words, share = [], self.pick((0.15, 0.3, 0.5))
        for word in template.split(" "):
            if "{" in word or not self.chance(share):
                words.append(word)
                continue
            end = word[-1] if word[-1] in ":,?." else ""
            change = self.rng.random()
            if change < 0.25:
                words.append(word)
            if change < 0.85:
                words.append(self.pick(self.words) + end)
        if self.chance(0.15):
            words = [word for word in words if "{K}" not in word]
        if self.chance(0.35):  # The answer may come early …
            owner = max(i for i, word in enumerate(words) if "{N}" in word)
            words = words[: int(self.rng.integers(owner, len(words))) + 1]
        for _ in range(int(self.rng.choice(3, p=(0.4, 0.4, 0.2)))):  # … or late.
            at_end = self.chance(0.4)
            words.insert(len(words) if at_end else int(self.rng.integers(len(words) + 1)),
                         self.snippet())
        return " ".join(words)

    def snippet(self):
        """2 to 8 words of a book that stand beside each other."""
        ids = self.book.ids
        begin = int(self.rng.integers(len(ids) - 32))
        text = self.tokenizer.decode(ids[begin : begin + 32]).translate({123: None, 125: None})
        return " ".join(text.split()[1 : 1 + int(self.rng.integers(2, 9))])

    def ask(self, fact, plain=False):
        """A question for a fact [owner, kind, value] in a wording of its own."""
        template = wordings.PLAIN_QUESTION if plain else self.asking()
        return self.question(template, fact[1], fact[0], fact[2])

    def crowd(self, length):
        """2 to 12 keys stated one after the other in the same words, and asked in the same words.

        With only the owners to tell them apart, it teaches which value belongs to whom.
        """
        count = int(self.rng.integers(2, max(3, min(12, length // 50)) + 1))
        plain = self.chance(0.3)
        kind, question = self.kind(plain), wordings.PLAIN_QUESTION if plain else self.asking()
        template = wordings.PLAIN_STATEMENT if plain else self.pick(wordings.STATEMENTS)
        facts = [(owner, self.value()) for owner in self.owners(count)]
        join = self.encode("\nx")[:-1] if self.chance(0.5) else []
        stated = [(self.paragraph, 1.0)]
        for owner, value in facts:
            stated += self.render(template, kind, owner, value, lead="" if join else " ")
            stated += [(join, 1.0)]
        asked = []
        for i in self.rng.permutation(count):
            asked += self.question(question, kind, *facts[i])
        room = length - sum(len(ids) for ids, _ in stated + asked) - 1
        if room < 8:
            return self.register(length)
        before = int(room * self.rng.random())
        return self.finish([([BOS], 0.0), (self.book.take(before), 1.0), *stated,
                            (self.paragraph, 1.0), (self.book.take(room - before), 1.0), *asked],
                           length)

    def chain(self, length):
        """Keys that are given as the same as another's, over 1 to 4 steps."""
        chains = int(self.rng.integers(1, max(2, min(4, length // 150)) + 1))
        statements, facts = [], []
        for _ in range(chains):
            hops = int(self.rng.integers(1, 5 if length > 256 else 3))
            owners, kind, value = self.owners(hops + 1), self.kind(self.chance(0.3)), self.value()
            template = self.pick(wordings.STATEMENTS)
            statements.append(self.statement(template, kind, owners[0], value))
            for near, far in zip(owners[1:], owners):
                statements.append(
                    self.statement(self.pick(wordings.SAME_AS), kind, near, "", far))
            facts += [[owner, kind, value] for owner in owners]
        if len({owner for owner, _, _ in facts}) < len(facts):
            return self.chain(length)
        statements = [statements[i] for i in self.rng.permutation(len(statements))]
        asked = self.rng.permutation(len(facts))[: int(self.rng.integers(1, len(facts) + 1))]
        questions = [self.ask(facts[i]) for i in asked]
        return self.hide(statements, questions, None, length) or self.register(length)

    def register(self, length):
        """A table of names and values, book text, and half of the lines again, out of order."""
        lines = min(40, int(self.rng.integers(3, max(4, length // 30) + 1)))
        separator, newline = self.pick(wordings.LIST_SEPARATORS), self.encode("\nx")[:-1]
        table = [(self.encode(owner[0].upper() + owner[1:]), self.encode(" " + self.value()))
                 for owner in self.owners(lines)]
        parts = [([BOS], 0.0), (self.encode(self.pick(wordings.LIST_TITLES)), TEMPLATE_WEIGHT),
                 (self.paragraph, 1.0)]
        mark = self.encode(separator)
        for name, value in table:
            parts += [(name, 0.0), (mark, 1.0), (value, 0.0), (newline, 1.0)]
        again = []
        for i in self.rng.permutation(lines)[: max(3, lines // 2 + 1)]:
            name, value = table[i]
            again += [(name, 0.0), (mark, 1.0), (value, ANSWER_WEIGHT), (newline, 1.0)]
        room = length - sum(len(ids) for ids, _ in parts + again) - 6
        if room > 4 and self.chance(0.8):
            count = int(room * self.rng.random()) if self.chance(0.5) else room
            if count > 2:
                parts += [(newline, 1.0), (self.book.take(count), 1.0), (self.paragraph, 1.0)]
        return self.finish(parts + again, length)

    def copy(self, length):
        """A paragraph, book text, and the paragraph again."""
        count = int(self.rng.integers(16, max(17, min(400, length // 2 - 8))))
        text = self.book.take(count)
        parts = [([BOS], 0.0), (text, 1.0), (self.paragraph, 1.0)]
        between = int((length - 2 * count - 8) * self.rng.random())
        if between > 4:
            parts += [(self.book.take(between), 1.0), (self.paragraph, 1.0)]
        parts += [(text[:4], 0.0), (text[4:], REPEAT_WEIGHT), (self.paragraph, 1.0)]
        return self.finish(parts, length)

    def recopy(self, length):
        """One stretch of a book over and over."""
        count = int(self.rng.integers(8, length // 3))
        text = self.book.take(count)
        parts = [([BOS], 0.0), (text, 1.0)]
        for _ in range(length // count):
            parts += [(self.paragraph, 1.0), (text[:2], 0.0), (text[2:], REPEAT_WEIGHT)]
        return self.finish(parts, length)

    def rand(self, length):
        """Random tokens over and over: the shortest road to copying."""
        longest = length // 2 if self.chance(0.3) else length // 5
        text = self.rng.integers(1, self.tokenizer.size, int(self.rng.integers(6, longest)))
        parts = [([BOS], 0.0), (text, 0.0)] + [(text, 1.0)] * (length // len(text) + 1)
        return self.finish(parts, length)

    def plain(self, length):
        """Book text alone."""
        return self.finish([([BOS], 0.0), (self.book.take(length), 1.0)], length)

    def batch(self, documents, length, mix, skip=0.0, longest=4096):
        """`documents` of `length` + 1 ids, with weights, positions and the names of their kinds.

        mix: probability of each kind. skip: share of documents whose positions jump ahead in
        places, so that short documents cover distances up to `longest`.
        """
        shares = np.array(list(mix.values()))
        kinds = self.rng.choice(list(mix), documents, p=shares / shares.sum())
        made = [getattr(self, kind)(length) for kind in kinds]
        positions = np.tile(np.arange(length), (documents, 1))
        for row in positions:
            if length < longest and self.chance(skip):
                self.skip_positions(row, longest - length)
        return np.stack([m[0] for m in made]), np.stack([m[1] for m in made]), positions, kinds

    def skip_positions(self, row, room):
        """Puts 1 to 3 jumps of together up to `room` into the positions of one document."""
        jumps = int(self.rng.integers(1, 4))
        total = int(room * self.rng.random() ** 1.5)
        shares = np.ones(jumps + 1) / (jumps + 1)
        if self.chance(0.3):
            shares = self.rng.dirichlet(np.ones(jumps + 1))
        gaps = self.rng.multinomial(total, shares)
        row += gaps[-1]
        for place, gap in zip(np.sort(self.rng.integers(1, len(row), jumps)), gaps):
            row[place:] += gap


def value_words(texts, count=3000):
    """Words of the books that serve as values and kinds: common ones of 4 to 9 small letters."""
    counts = {}
    for text in texts:
        for word in re.findall(r"(?<= )[a-z]{4,9}(?=[ ,.])", text):
            counts[word] = counts.get(word, 0) + 1
    ranked = sorted(counts.keys() - set(wordings.RESERVED_KINDS), key=lambda w: (-counts[w], w))
    return ranked[300 : 300 + count]
