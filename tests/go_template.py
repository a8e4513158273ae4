"""As much of Go's text/template as Ollama's Modelfile here uses, and how Ollama hands messages to it.

Compared with Go 1.19 over all orders of up to four messages. Beyond this lie: pipes, `with`, `else if`, comments, other
functions. Variables live until the template ends, where Go's end with their block.
"""

import json
import operator
import re

FUNCTIONS = {"eq": operator.eq, "ne": operator.ne, "gt": operator.gt, "and": lambda a, b: b if a else a}


def collate(messages):
    """Ollama joins neighbours of one role by a blank line before a template sees them."""
    found = []
    for message in messages:
        if found and found[-1]["Role"] == message["role"]:
            found[-1]["Content"] += "\n\n" + message["content"]
        else:
            found.append({"Role": message["role"], "Content": message["content"], "Thinking": message.get("thinking")})
    return found


def render(template, messages):
    out = []
    _run(_parse(template), {"Messages": collate(messages)}, {}, out)
    return "".join(out)


def thinking_tags(template):
    """What Ollama takes for the tags of a thought: the text around `.Thinking` in a range over `.Messages`."""
    found = []

    def look(nodes, inside):
        for kind, what, *branches in nodes:
            if (kind, what) == ("do", ".Thinking") and inside:
                found.extend(text.strip() for kind, text, *_ in (nodes[0], nodes[-1]) if kind == "text")
            for branch in branches:
                look(branch, inside or (kind == "range" and what.endswith(":= .Messages")))

    look(_parse(template), False)
    return tuple(found)


def _parse(template):
    parts = re.split(r"\{\{(-\s)?\s*(.*?)\s*(\s-)?\}\}", template, flags=re.DOTALL)
    items = []
    for i in range(0, len(parts), 4):
        text = parts[i].lstrip() if i and parts[i - 1] else parts[i]
        text = text.rstrip() if i + 1 < len(parts) and parts[i + 1] else text
        items += [("text", text)] if text else []
        items += [("do", parts[i + 2])] if i + 1 < len(parts) else []
    return _block(iter(items))[0]


def _block(items):
    """Nodes up to an `end` or `else`, and which of the two it was."""
    nodes = []
    for kind, what in items:
        word, _, rest = what.partition(" ")
        if kind == "do" and word in ("end", "else"):
            assert not rest, f"not known here: {what}"
            return nodes, word
        if kind == "do" and word in ("if", "range"):
            body, ended = _block(items)
            nodes.append((word, rest, body, _block(items)[0] if ended == "else" else []))
        else:
            nodes.append((kind, what))
    return nodes, None


def _run(nodes, dot, variables, out):
    for kind, what, *branches in nodes:
        if kind == "text":
            out.append(what)
        elif kind == "if":
            _run(branches[0] if _value(what, dot, variables) else branches[1], dot, variables, out)
        elif kind == "range":
            names, _, where = what.partition(" := ")
            for pair in enumerate(_value(where, dot, variables)):
                variables.update(zip(names.split(", "), pair, strict=True))
                _run(branches[0], pair[1], variables, out)
        elif assigned := re.match(r"(\$\w+) (:?=) (.*)", what, re.DOTALL):
            name, how, value = assigned.groups()
            assert how == ":=" or name in variables, f"undeclared: {what}"
            variables[name] = _value(value, dot, variables)
        else:
            out.append(str(_value(what, dot, variables)))


def _value(text, dot, variables):
    words = re.findall(r'"(?:\\.|[^"\\])*"|[()]|[^\s()]+', text)

    def one():
        word = words.pop(0)
        if word == "(":
            value = call()
            assert words.pop(0) == ")"
            return value
        if word.startswith("."):
            return dot[word[1:]]
        return variables[word] if word.startswith("$") else json.loads(word)

    def call():
        if words[0] not in FUNCTIONS:
            return one()
        function = FUNCTIONS[words.pop(0)]
        return function(one(), one())

    value = call()
    assert not words, f"not known here: {text}"
    return value
