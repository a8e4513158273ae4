"""Strict scoring of multiple-choice replies: a reply and its options in, a letter or None out."""

import re
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from string import ascii_uppercase
from typing import NamedTuple

# How a choice is read: what follows the thought is made plain (MARKUP), each mention of an option becomes a mark
# ("(C) Ceftriaxone" -> "‹L:C›"), and the words around a mark say whether the sentence states it. Kinds of mark: T an
# option's text, B a bare letter, P one in parentheses, L another that is no word ("option C", a letter with its text).
# Two letters in one mark contradict each other: "B) Aspirin" where Aspirin is option C becomes "‹L:BC›".
MARKUP = [
    (r"</answer>|<\|[^<>|\n]*\|>", "\n"),
    (r"<answer>", "\nAnswer: "),
    (r"</?[a-z_]+(?: [^<>\n]*)?>|~~[^~\n]*~~", " "),  # what is struck out is taken back
    (r"\\f?boxed\b", " answer: "),
    (r"\\[a-z]+", ""),
    (r"[*`#$\\{}‹›\"“”«»→]|(?<!\w)[_']+|[_']+(?!\w)", ""),
    (r"n't\b", " not"),
    (r"[^\S\n]+", " "),
    (r"\n\s+", "\n"),
    (r"^(?: |[->+•|] )*(?:\d+[.)] )?", ""),  # bullets and numbers of a list
    (r"^((?:final )?answer)\W*$", r"\1:"),  # a heading
]
PLAIN = str.maketrans({"—": " - ", "–": "-", "‑": "-", "−": "-", "’": "'", "‘": "'"})
LOOKALIKES = str.maketrans("АВСЕНІЈКМОРЅТХасеіјорѕхΑΒΕΖΗΙΚΜΝΟΡΤΧ", "ABCEHIJKMOPSTXaceijopsxABEZHIKMNOPTX")
LETTER = f"[A-Za-z{''.join(map(chr, LOOKALIKES))}]"
POLAR = {"yes", "no", "maybe"}  # options that are everyday words too
NO_OPTION = ["none", "none of the above", "none of these", "none of the options", "all of the above"]

MARK = r"‹[LBPT]:[\w-]+›"
FILL = r"(?:(?:\w+ly|most|therefore|thus|indeed|the|to|be|either|both|between)\b|[ :=>(\[,-])*"
LINK = r"(?:(?:and|or|nor|not|but|rather|also|possibly|maybe|which is)\b|answer: |[ ,/&+)\]])+"
GROUP = rf"(?:(?:not|neither) )?{MARK}(?:{LINK}{MARK})*"
# What may follow a stated option; a word that carries on may not: "A patient", "B cells", "diabetes insipidus".
ENDS = (
    r" ?(?:$|[.,;:!?)\](\n]|- |(?:because|since|as|due|given|which|based|here|in this|while|although|so|rather|instead"
    rf"|over|but|not)\b|(?:and|or)\b(?!{FILL}‹))"
)
NOUN = r"(?<!to )\b(?:answer|ans|choice|option|conclusion|correct one)\b"
BEST = r"\b(?:most (?:likely|appropriate|probable|suitable|accurate)|best|diagnosis|of choice)\b"
IS = r"(?:\b(?:is|are|be)\b|'s\b|[:=]| - )"
# What stands before a stated option. CUE: "the answer is"; WEAK_CUE: "the most likely diagnosis is"; FAR_CUE: "the
# answer is AML" before "(C)"; LAST_CUE: "therefore", where the sentence ends with the option.
CUE = (
    rf"(?:{NOUN}[^‹›;?!]{{0,80}}?{IS}|\b(?:correct|right|final)(?: {NOUN},?|:) |\b(?:choose|select|pick"
    r"|go(?:ing)? with|opt for|settle on|leav\w+ (?:us )?with|corresponds to|points to"
    rf"|(?:i|we)(?:'d| would|'ll| will)? (?:say|answer|conclude)) ){FILL}$"
)
WEAK_CUE = rf"(?:{BEST}[^‹›;?!]{{0,120}}?\b(?:is|are|be)\b|\b(?:it|this|that)(?:'s| is|(?: \w+){{0,2}} be)\b){FILL}$"
FAR_CUE = rf"(?:{NOUN}|{BEST})[^‹›;?!]{{0,120}}?{IS}[^‹›;?!]{{1,120}}$"
LAST_CUE = (
    r"(?:^|[,;.-] )(?:so|thus|therefore|hence|finally|actually|in conclusion|in summary|correction|(?:no,? )?wait"
    rf"|no(?=,)|(?:final )?answer|i (?:think|believe))\b[,:]? ?{FILL}$"
)
# "C is the answer": what stands before, and what follows. "Yes, this is right" speaks of something else.
SUBJECT = rf"(?:^|[,;:(-] ?|\b(?:that|so|thus|therefore|hence|and|but|because|while|makes|making|leaving) ){FILL}$"
PREDICATE = (
    r"[ ,:.)-]*(?P<this>this )?(?:(?:is|are|remains|seems|(?:must|seems to|appears to) be)(?: \w+ly)?(?P<no> not)? "
    r"|(?:as )?(?=the ))(?:(?P<named>(?:the|my|our) (?:[\w-]+ ){0,3}?(?:answer|choice|option)\b)"
    rf"|(?(this)(?!)|(?:the {BEST}|(?:correct|right|most likely)\b)))"
)
UNREAL = (  # spoken of, not asserted
    r"(?<!even )\bif\b(?! (?:i|we) (?:had|have)\b)|^\W*(?:otherwise|had|were)\b|\b(?:unless|assuming|suppose"
    r"|tempt(?:ing|ed) to|mistake|students|some (?:people|would)|at first glance"
    r"|(?:initially|at first),? (?:i|we|the answer|thought))\b"
    r"|\b(?:might|may|could|one would) (?:think|say|assume|choose)"
    r"|\b(?:initial|first) (?:thought|guess|answer|choice|impression)"
)
NEGATED = (
    r"\b(?:not|cannot|never|unlikely|disagree|(?<!no )(?<!a )doubt|incorrect|wrong|least|false|except|excluded"
    r"|eliminated|other|second|worst|common|whether|(?:could|might|may|can)(?: \w+)? be)\b"
)
CLAUSE = r";| - |\b(?:but|however|therefore|thus|hence)\b|, so\b"
REASON = r"\b(?:because|since|as|given|due|which|while)\b|;"


class Statement(NamedTuple):
    asserted: set[str]
    denied: set[str]
    firm: bool  # if not, it counts only where nothing firm is said
    by_text: bool


def _clean(text: str) -> str:
    """The text without markdown, LaTeX, quotes and symbols, one space between words."""
    text = unicodedata.normalize("NFKC", text)  # full-width and mathematical letters become plain ones
    text = "".join(c for c in text.translate(PLAIN) if c == "°" or unicodedata.category(c) not in ("So", "Cf"))
    for pattern, plain in MARKUP:
        text = re.sub(pattern, plain, text, flags=re.I | re.M)
    return text.strip()


def _mark(text: str, names: Mapping[str, str]) -> str:
    """The text with each mention of an option as a mark; `names` maps upper-case letters to cleaned texts."""
    owners = dict.fromkeys(NO_OPTION, "-")  # "-": a statement, but of no option
    owners |= {name: "".join(key for key in names if names[key] == name) for name in names.values()}
    spelled = [name for name in owners if name and name.upper() not in names]  # a text "B" is read as the letter
    texts = "|".join(re.escape(name) for name in sorted(spelled, key=len, reverse=True))
    genus = rf"\. ?(?!(?i:{texts}|(?:because|since|the|it)\b))[a-z]"  # "E. coli", "e.g."
    mention = (
        rf"(?<![\w'-])(?P<T>(?i:{texts}))(?![\w'%]|-\w|[.,]\d)"
        rf"|[(\[] ?(?:(?i:option|choice|answer|letter):? )?(?P<P>{LETTER}) ?[)\]]"
        rf"|\b(?i:(?:answer )?(?:option|choice)|letter) (?P<L>{LETTER})(?![\w'-])\)?"
        rf"|(?<![\w°'])(?<!\w-)(?P<B>(?!I \w){LETTER})(?![\w°'+]|-\w|{genus})"  # nor "39 °C", "A-fib", "A+", "I am"
    )

    def mark(found: re.Match) -> str:
        ends = re.compile(ENDS, re.I).match(found.string, found.end())
        if found["T"]:
            name = found["T"].lower()
            return f"‹T:{owners[name]}›" if name in owners and (ends or name not in POLAR) else found[0]
        letter = found[found.lastgroup].translate(LOOKALIKES)
        if letter.islower() and (letter.upper() not in names or (found["B"] and not ends)):
            return found[0]
        return f"‹{found.lastgroup}:{letter.upper()}›"

    def join(found: re.Match) -> str:
        """A letter with a text beside it is one mark; left apart where the text may open a sentence of its own."""
        kind, letter, gap, owner = found.groups()
        if letter in owner:
            return f"‹L:{letter}›"
        if gap == " " and kind == "B" and letter in "AI":  # an article, a pronoun
            return f"‹T:{owner}›"
        opens_line = found.string[: found.start()][-1:] in ("", "\n")
        ends = re.compile(ENDS, re.I).match(found.string, found.end())
        return f"‹L:{letter}{owner}›" if ends or opens_line or kind != "B" or ":" in gap or ")" in gap else found[0]

    return re.sub(r"‹([LBP]):(\w)›([ ).:,=\]-]*\(? ?)‹T:([\w-]+)›\)?", join, re.sub(mention, mark, text))


def _weigh(group: str) -> tuple[set[str], set[str]]:
    """Letters that a run of marks asserts and denies: "not A but B" -> {B}, {A}; "A or C" -> {A, C}, {}."""
    asserted: set[str] = set()
    denied: set[str] = set()
    side = asserted
    for word, letters in re.findall(r"\b(not|neither|but|rather)\b|:([\w-]+)›", group):
        side = denied if word in ("not", "neither") else asserted if word else side
        side.update(letters)
    return asserted, denied


def _statements(sentence: str) -> Iterator[Statement]:
    """What a marked sentence, in lower case but for its marks, says of the options, in order."""
    done = 0
    for group in re.finditer(GROUP, sentence):
        before = sentence[max(done, group.start() - 240) : group.start()]  # bounded: some replies never end a sentence
        after = sentence[group.end() : group.end() + 240]
        asserted, denied = _weigh(group[0])
        by_text, ends = not re.search("‹[LBP]", group[0]), re.match(ENDS, after)
        predicate = re.match(PREDICATE, after) if re.search(SUBJECT, before) else None
        if (ends and re.search(CUE, before)) or (not re.search(r"\w", after) and re.search(LAST_CUE, before)):
            firm = True
        elif ends and re.search(WEAK_CUE, before):
            firm = not by_text
        elif predicate and not re.search(NEGATED, predicate["named"] or ""):
            firm = bool(predicate["named"])
            if predicate["no"]:
                asserted, denied = set(), asserted if firm else set()
        elif ends and "‹P" in group[0] and re.search(FAR_CUE, before):
            firm = True
            other = re.match(r" ?,? ?(?:or|and)\b[^.;,]*", after)  # "... AML (A) or ALL (C)"
            asserted |= set(re.findall(r"‹P:(\w)›", other[0] if other else ""))
        else:
            continue
        done = group.end()
        clause = re.split(CLAUSE, before)[-1]
        unreal = re.search(UNREAL, clause) or re.search(UNREAL, re.split(REASON, after)[0])
        if not unreal and not re.search(NEGATED, re.split(r",|\band\b", clause)[-1]):
            yield Statement(asserted, denied, firm, by_text)


def _alone(sentences: list[str], polar: bool) -> dict[int, Statement]:
    """The first and the last sentence's statements, by number, if they are nothing but an option ("C) Ceftriaxone").

    A walk through the options ("A) ... B) ...") states nothing, so such a sentence counts only outside the walk's
    order, as a conclusion after "D) ..." is. Among polar options "Yes, ..." opens a reply as plainly as "Yes." does.
    """
    items = []
    for number, sentence in enumerate(sentences):
        group, gap, rest = re.match(rf"[^\w‹]*({GROUP}|)([^\w‹]*)(.*)", sentence).groups()
        opens = number == 0 and (re.match(r"(?:because|since)\b", rest) or (polar and "‹T" in group and gap.strip()))
        if group and (opens or gap.strip() or not rest or re.match("‹[LP]", group)):
            items.append((number, group, group[3:], opens or not rest))
    found = {}
    texts = set(re.findall(r"‹T:\w+", "".join(sentences)))
    for i in {0, len(items) - 1} if items else ():
        number, group, letters, alone = items[i]
        by_text = not re.search("‹[LBP]", group)
        apart = letters <= items[max(i - 1, 0)][2] and letters >= items[min(i + 1, len(items) - 1)][2]
        apart = texts <= set(re.findall(r"‹T:\w+", group)) if by_text else apart  # no other option's text is there
        if alone and apart and number in (0, len(sentences) - 1):
            found[number] = Statement(*_weigh(group), firm=True, by_text=by_text)
    return found


def extract_choice(reply: str, options: Mapping[str, str] | Sequence[str]) -> str | None:
    """The option that a reply states as its answer, or None.

    Only what follows the last `</think>` is read; without one, or with another `<think>` after it, the thought never
    ended. The last explicit statement wins. None, never a guess, for: no statement, several letters at once, a letter
    beside another option's text, a letter that is no option, a statement taken back, a mere walk through the options,
    a question, a condition, what others might think. An option's text counts where it is named as the answer, or is
    the reply's conclusion and no other option's text is there; an explicit letter that disagrees makes it None.
    Look-alike letters (Cyrillic, Greek, full-width) count where a Latin letter would.
    `options` maps single letters to texts (else ValueError), or lists letters, or texts to be lettered A, B, ...
    """
    if not isinstance(options, Mapping):
        lettered = all(len(text) == 1 and text.isalpha() for text in options)
        options = dict.fromkeys(options, "") if lettered else dict(zip(ascii_uppercase, options, strict=False))
    spelling = {letter.upper(): letter for letter in options}
    if len(spelling) < len(options) or not all(re.fullmatch("[A-Z]", letter) for letter in spelling):
        raise ValueError(f"options need distinct single letters, got {', '.join(map(repr, options))}")
    _, closed, answer = reply.rpartition("</think>")
    if not closed or "<think>" in answer:
        return None

    names = {letter.upper(): _clean(text).rstrip(". ").lower() for letter, text in options.items()}
    text = _mark(_clean(answer), names)
    # "The answer is:" and the option on the next line, unless a walk through the options follows.
    text = re.sub(rf"(:|\b(?:is|be)) ?\n(?={MARK}\W*?(?:\n(?!\W*‹[LBP])|$))", r"\1 ", text)
    sentences = re.split(r"\n+|(?<=[.!?]) +(?![a-z]|(?:Wrong|Incorrect|False|Not|This is)\b)", text)
    sentences = [re.sub("[^‹]+|‹.*?›", lambda m: m[0] if m[0][0] == "‹" else m[0].lower(), s) for s in sentences]
    sentences = [s for s in sentences if re.search(r"\w", s) and not re.search(r"\?\W*$", s)]
    alone = _alone(sentences, polar=not POLAR.isdisjoint(names.values()))
    said = [said for i, s in enumerate(sentences) for said in ([alone[i]] if i in alone else _statements(s))]

    choice: set[str] = set()
    lettered: set[str] = set()
    if any(s.firm and s.asserted for s in said):
        for s in said:
            if s.firm and s.asserted:
                choice = s.asserted | lettered if s.by_text else s.asserted
                lettered |= set() if s.by_text else s.asserted
            elif choice <= s.denied:
                choice = set()
    elif choice := set().union(*(s.asserted for s in said)).difference(*(s.denied for s in said)):
        others = set("".join(re.findall(r"‹T:([A-Z]+)›", text)))
        choice |= others if any(s.by_text for s in said) else set()
    return spelling.get(min(choice)) if len(choice) == 1 else None
