"""Strict scoring of multiple-choice replies: a reply and its options in, a letter or None out."""

import re
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from string import ascii_uppercase
from typing import NamedTuple

# How a choice is read. What follows the thought is made plain English (FOREIGN, MARKUP), each mention of an option
# becomes a mark, and the words around a mark decide whether the sentence states it (FORMS). Kinds of mark:
#   ‹T:C›   the text of option C       ‹B:C›  a bare letter           ‹P:C›  a letter in parentheses
#   ‹L:C›   "option C", "letter C"     ‹O:C›  a letter with its own text: "(C) Ceftriaxone"
#   ‹L:BC›  a contradiction: a letter with another option's text ("B) Ceftriaxone", which is option C)

# Plain statements in other languages become English ones. All else there ("B oder C") is left as it is, and not read.
ADJECTIVE = (
    r"(?:richtige|korrekte|beste|bonne|juste|correct[ae]?|finale?|mejor|correta|certa|melhor|corretta|giusta|esatta"
    r"|migliore|juiste|goede|yang benar|правильный|верный|الصحيحة?)"
)
ANSWER = (
    rf"(?:(?:\b(?:die|la|le|el|a|o|het) )?(?:{ADJECTIVE} )?"
    r"(?:\b(?:antwort|lösung|réponse|respuesta|resposta|risposta|antwoord|jawaban|ответ)|الإجابة|الجواب)\b"
    rf"(?: {ADJECTIVE})?)"
)
COPULA = r"(?:ist|lautet|est|es|é|è|is|adalah|هي|هو)"
LETTERED = r"(?: (?:(?-i:la|a)|die|option|opción|opção|opzione|letra|lettre|lettera|alternativa|réponse|respuesta)\b)*"
HAN = r"[⺀-鿿가-힣ぁ-ヿ]"
FOREIGN = [
    (r"[。｡]", ". "),
    (r"、", ", "),
    (rf"(?<={HAN})(?=[A-Za-z])|(?<=[A-Za-z])(?={HAN})", " "),
    (r"(?<=[A-Z)]) ?(?:选项|项|です|입니다)", ""),
    (r"选项", " option "),
    (r"如果|假如|假设|若", " if "),
    (r"(?:正确|最终|最佳)? ?(?:答案|正解|答え|정답)(?:应该?|應)? ?(?:是|为|為|选|は|은|는|:)+", " the answer is "),
    (r"(?:(?<!不)应|(?<![不没能可应若要是或]))选择? ?(?=[(A-Z])", " the answer is "),  # "选C", not "不选C"
    (r"(?<=[A-Z)]) ?是?正确", " is correct "),
    (rf"{ANSWER}(?: ?:| {COPULA}\b:?){LETTERED}", "the answer is"),
    (r"^(?:richtig|korrekt) ist\b", "the answer is"),
    (r"(?:\bwenn|\bfalls|(?<!per )\bs[ie])\b(?=[^.\n]{0,120}\bthe answer is)", "if"),
    (r"(\bthe answer is[^.\n]{0,80}?) (?-i:wenn|falls|si)\b", r"\1 if"),
    (r"(?:不(?!过)|没|\b(?:nicht|niet|ne|pas|não)\b)(?=[^.,\n]{0,40}\bthe answer is)", " not "),
    (rf"(?<=[A-Z)]) {COPULA} {ANSWER}", " is the answer"),
    (rf"(?<=[A-Z)]) (?:{COPULA}|está) (?:richtig|korrekt|correcte?|correct[ao]|corret[ao])\b", " is correct"),
]
MARKUP = [
    (r"\[\d+(?:[,-] ?\d+)*\]", ""),  # a citation
    (r"<((?-i:[A-Z]))>(?![^<>\n]{0,200}</)", r"(\1)"),  # no tag, as the one of "<b>C</b>" is
    (r"</answer>|<\|[^<>|\n]*\|>", "\n"),
    (r"<answer>", "\nAnswer: "),
    (r"</?[a-z_]+(?: [^<>\n]*)?>|~~[^~\n]*~~", " "),  # what is struck out is taken back
    (r"\\f?boxed\b", " answer: "),
    (r"\\[a-z]+", ""),
    (r"[*`#$\\{}‹›\"“”«»→]|(?<!\w)[_']+|[_']+(?!\w)", ""),
    (r"n't\b", " not"),
    (r"\b(?:considering|given|based on) all of the above\b", "so"),
    (r"[^\S\n]+", " "),
    (r"\n\s+", "\n"),
    (r"^(?: |[->+•|] )*(?:\d+[.)] )?", ""),  # bullets and numbers of a list
    (r" ?\|$", ""),  # the end of a table's row
    (r"^((?:final |correct )?answer)(?: \||\W*$)", r"\1:"),  # a table's row, a heading
    *FOREIGN,
    (r"[^\S\n]+", " "),
]
PLAIN = str.maketrans({"—": " - ", "–": "-", "‑": "-", "−": "-", "’": "'", "‘": "'"})
LOOKALIKES = str.maketrans("АВСЕНІЈКМОРЅТХасеіјорѕхΑΒΕΖΗΙΚΜΝΟΡΤΧ", "ABCEHIJKMOPSTXaceijopsxABEZHIKMNOPTX")
LETTER = f"[A-Za-z{''.join(map(chr, LOOKALIKES))}]"
POLAR = {"yes", "no", "maybe"}  # options that are everyday words too
NO_OPTION = ["none", "none of the above", "none of these", "none of the options", "all of the above"]

MARK = r"‹[LBPTO]:[\w-]+›"
FILL = r"(?:(?:\w+ly|most|therefore|thus|indeed|the|to|be|either|both|between)\b|[ :=>(\[,-])*"
LINK = r"(?:(?:and|or|nor|not|but|rather|also|possibly|maybe|which is)\b|answer: |[ ,/&+)\]])+"
GROUP = rf"(?:(?:not|neither) )?{MARK}(?:{LINK}{MARK})*"
NOUN = r"(?<!to )\b(?:answer|ans|choice|option|conclusion|correct one)\b"
LABEL = (
    r"^(?:(?:final|correct|my|most likely|selected|the) )*"
    r"(?:response|solution|diagnosis|decision|verdict|selection|output)[:=]"
)
BEST = r"\b(?:most (?:likely|appropriate|probable|suitable|accurate)|best|diagnosis|of choice)\b"
IS = r"(?:\b(?:is|are|be)\b|'s\b|[:=]| - )"
NEGATED = (
    r"\b(?:not|cannot|never|unlikely|disagree|(?<!no )(?<!a )doubt|incorrect|wrong|least|false|except|excluded"
    r"|eliminated|other|second|worst|common|whether|(?:could|might|may|can)(?: \w+)? be)\b"
)
# What may follow a stated option; a word that carries on may not: "A patient", "B cells", "diabetes insipidus".
ENDS = (
    r" ?(?:$|[.,;:!?)\](\n]|- |(?:because|since|as|due|given|which|based|here|while|although|so|rather|instead"
    rf"|over|but|not)\b|at \d|(?:in|for) (?:this|our|a)\b|(?:and|or)\b(?!{FILL}‹))"
)
CUE = (
    rf"(?:{NOUN}[^‹›;?!]{{0,80}}?{IS}|{LABEL}|\b(?:correct|right|final)(?: {NOUN},?|:) |\b(?:choose|select|pick"
    r"|go(?:ing)? with|opt for|settle on|leav\w+ (?:us )?with|corresponds to|points to"
    rf"|(?:i|we)(?:'d| would|'ll| will)? (?:say|answer|conclude)) ){FILL}$"
)
LAST_CUE = (
    r"(?:^|[,;.-] )(?:so|thus|therefore|hence|finally|actually|in conclusion|in summary|in short|overall|correction"
    rf"|(?:no,? )?wait|no(?=,)|(?:final )?(?:answer|ans)|i (?:think|believe))\b[,:]? ?{FILL}$"
)
WEAK_CUE = rf"(?:{BEST}[^‹›;?!]{{0,120}}?\b(?:is|are|be)\b|\b(?:it|this|that)(?:'s| is|(?: \w+){{0,2}} be)\b){FILL}$"
SUBJECT = rf"(?:^|[,;:(-] ?|\b(?:that|so|thus|therefore|hence|and|but|because|while|makes|making|leaving) ){FILL}$"
PREDICATE = (  # "Yes, this is right" speaks of something else
    r"[ ,:.)-]*(?P<this>this )?(?:(?:is|are|remains|seems|(?:must|seems to|appears to) be)"
    r"(?: (?:\w+ly|therefore|thus|indeed))?(?P<no> not)? |(?:as )?(?=the )|(?=fits))(?:(?P<wrong>(?:wrong|incorrect"
    rf"|false)\b)|(?P<named>(?:the|my|our) (?:(?!{NEGATED})[\w-]+ ){{0,3}}?(?:answer|choice|option)\b)"
    rf"|(?(this)(?!)|(?:the {BEST}|(?:correct|right|most likely)\b|fits(?: best)?(?= ?(?:$|[.;])))))"
)
FAR_CUE = rf"(?:{NOUN}|{BEST})[^‹›;?!]{{0,120}}?{IS}[^‹›;?!]{{1,120}}$"
# How an option is stated: what stands before it, and what follows; the first that fits. A firm statement outweighs
# all that are not.
FORMS = {
    "named": (CUE, ENDS),  # The answer is C. Firm.
    "last": (LAST_CUE, r"\W*$"),  # Therefore, C. Firm.
    "pointed at": (WEAK_CUE, ENDS),  # It is C. The most likely diagnosis is C. Firm by a letter, not by a text.
    "subject": (SUBJECT, PREDICATE),  # C is the answer: firm. C is right: not.
    "in brackets": (FAR_CUE, ENDS),  # The answer is AML (C). Firm, and only by a letter in parentheses.
}
UNREAL = (  # mentioned, not asserted
    r"(?<!even )\bif\b(?! (?:i|we) (?:had|have)\b)|^\W*(?:otherwise|had|were)\b|\b(?:unless|assuming|suppose"
    r"|tempt(?:ing|ed) to|mistake|students|some (?:people|would)|at first glance"
    r"|(?:initially|at first),? (?:i|we|the answer|thought))\b"
    r"|\b(?:might|may|could|one would) (?:think|say|assume|choose)"
    r"|\b(?:initial|first) (?:thought|guess|answer|choice|impression)"
)
CLAUSE = r";| - |\b(?:but|however|therefore|thus|hence)\b|, so\b"
# What follows an option's text that is the subject of a sentence of its own: "Gentamicin is an aminoglycoside".
VERB = (
    r" (?:\w+ly |alone |also |still )?(?!plus|as|versus|this|thus)\w+(?:s|ed)\b"
    r"|(?:,? ?(?:and|or)? ‹T:[\w-]+›)+ (?!together|both)[a-z]{2}"
    r"|(?:(?!\b(?:if|unless|which|that) ).)*? "
    r"(?:are|were|is|was|has|have|do|does|did|can|could|may|might|must|should|will|would)\b"
)
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
    owners = {name: owner for name, owner in owners.items() if name and name.upper() not in names}  # "B" is the letter
    spelled = [name for name in owners if not re.fullmatch("[a-z]", name)]
    texts = "|".join(re.escape(name) for name in sorted(spelled, key=len, reverse=True))
    genus = rf"\. ?(?!(?i:{texts}|(?:because|since|the|it)\b))[a-z]"  # "E. coli", "e.g."
    mention = (
        rf"(?<![\w'-])(?P<T>(?i:{texts}))(?![\w'%]|-\w|[.,]\d)"
        rf"|[(\[] ?(?:(?i:option|choice|answer|letter):? )?(?P<P>{LETTER}) ?[)\]]"
        rf"|\b(?i:(?:answer )?(?:option|choice)|letter|statement) [(\[]?(?P<L>{LETTER})(?![\w'-])[)\]]?"
        rf"|(?<![\w°'])(?<!\w-)(?P<B>(?!I \w){LETTER})(?![\w°'+]|-\w|{genus})"  # nor "39 °C", "A-fib", "A+", "I am"
    )

    def mark(found: re.Match) -> str:
        ends = re.compile(ENDS, re.I).match(found.string, found.end())
        if found["T"]:
            name = found["T"].lower()
            owner = owners.get(name, "")
            lettered = re.search(rf"(?<!\w)[{owner}]\W{{1,3}}$", found.string[: found.start()][-4:]) if owner else None
            return f"‹T:{owner}›" if owner and (ends or lettered or name not in POLAR) else found[0]
        letter = found[found.lastgroup].translate(LOOKALIKES)
        if letter.lower() in owners:  # a vitamin, a blood group
            text = f"‹T:{owners[letter.lower()]}›"
            return (f"({text})" if found["P"] else text) if letter.isupper() else found[0]
        if letter.islower() and (letter.upper() not in names or (found["B"] and not ends)):
            return found[0]
        return f"‹{found.lastgroup}:{letter.upper()}›"

    def join(found: re.Match) -> str:
        """A letter with a text beside it is one mark; left apart where the text opens a sentence of its own."""
        kind, letter, gap, owner = found.groups()
        if gap == " " and kind == "B" and letter in "AI" and letter not in owner:  # an article, a pronoun
            return f"‹T:{owner}›"
        after = found.string[found.end() : found.end() + 240]
        predicate = re.match(PREDICATE, after, re.I)
        # Beside its own text a letter says nothing: "Gentamicin (A) and ciprofloxacin (B) are ..."
        rest = re.sub(r"(‹T:(\w)›) ?‹[LBP]:\2›", r"\1", f"‹T:{owner}›" + re.match(r"[^.!?\n]*", after)[0])
        rest = rest.removeprefix(f"‹T:{owner}›")
        sentence = "." in gap and re.match(VERB, rest) and not re.search("‹[LBP]", rest)
        if letter in owner:
            if sentence and not predicate:
                return f"‹O:{letter}›. ‹T:{owner}›"
            return f"‹O:{letter}›" if re.match(ENDS, after, re.I) else f"‹O:{letter}›,"
        opens_line = found.string[: found.start()][-1:] in ("", "\n")
        apart = ")" not in gap and not opens_line and sentence and (not predicate or predicate["no"])
        return found[0] if apart else f"‹L:{letter}{owner}›"

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
        by_text = not re.search("‹[LBPO]", group[0])
        form = next(
            (name for name, (lead, rest) in FORMS.items() if re.match(rest, after) and re.search(lead, before)), ""
        )
        predicate = re.match(PREDICATE, after)
        if not form or (form == "in brackets" and "‹P" not in group[0]):
            continue
        firm = {"pointed at": not by_text, "subject": bool(predicate and predicate["named"])}.get(form, True)
        if form == "in brackets":
            other = re.match(r" ?,? ?(?:or|and)\b[^.;,]*", after)  # "... AML (A) or ALL (C)"
            asserted |= set(re.findall(r"‹P:(\w)›", other[0] if other else ""))
        if predicate and (predicate["no"] or predicate["wrong"]):  # "is not the answer"; "is not right" denies little
            asserted, denied = set(), asserted if predicate["named"] or not predicate["no"] else set()
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
        reason = r"(?:because|since|as|which)\b" if "‹O" not in group else rf"(?!{PREDICATE}|.*(?:{NEGATED}|‹[LBPO]))"
        opens = number == 0 and (re.match(reason, rest) or (polar and "‹T" in group and gap.strip()))
        if group and (opens or gap.strip() or not rest or re.match("‹[LPO]", group)):
            items.append((number, group, group[3:], opens or not rest))
    found = {}
    texts = set(re.findall(r"‹T:\w+", "".join(sentences)))
    for i in {0, len(items) - 1} if items else ():
        number, group, letters, alone = items[i]
        by_text = not re.search("‹[LBPO]", group)
        earlier = next((item[2] for item in items[:i][::-1] if item[2] != letters), letters)
        later = next((item[2] for item in items[i:] if item[2] != letters), letters)
        apart = later <= letters <= earlier
        apart = texts <= set(re.findall(r"‹T:\w+", group)) if by_text else apart  # no other option's text is there
        if alone and apart and number in (0, len(sentences) - 1):
            found[number] = Statement(*_weigh(group), firm=True, by_text=by_text)
    return found


def extract_choice(reply: str, options: Mapping[str, str] | Sequence[str]) -> str | None:
    """The option that a reply states as its answer, or None.

    Only what follows the last `</think>` is read; without one, or with another `<think>` after it, the thought never
    ended. The last explicit statement wins. None, never a guess, for: no statement, several letters at once, a letter
    beside another option's text, a letter of no option, a statement taken back, a mere walk through the options,
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
    text = re.sub(rf"(:|\b(?:is|be)) ?\n(?={MARK}[^\n]*(?:\n(?!\W*‹[LBPO])|$))", r"\1 ", text)
    sentences = re.split(
        r"\n+|(?<=[.!?]) +(?![a-z]|(?:Wrong|Incorrect|False|Not|This is (?:the|correct|right|wrong))\b)", text
    )
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
