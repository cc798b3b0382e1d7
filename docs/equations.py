"""Sets the equations of docstrings as mathematics: MathML, which browsers show by themselves, without a script or a font of ours.

An equation is written as people type one, in an indented block of a module's docstring, and nothing has to be learned for it:

    tau dV/dt = -V + I(t);   V >= threshold:  emit a spike, V <- V - threshold

Greek letters by name, ``_`` and ``^`` for what stands low and high (``s_(k-1)``, ``m^3``, ``A+``), ``d./d.`` for derivatives,
``sum_j``, ``sqrt``, ``<-`` for what becomes of a value. Single letters, names of options, and what stands before ``=`` or ``<-``
are symbols; every other word is a word of the sentence.
"""

from __future__ import annotations

import html
import re
from collections.abc import Iterable

GREEK = dict(
    zip(
        "alpha beta gamma delta eps epsilon eta theta kappa lambda mu nu pi rho sigma tau phi psi omega Delta Omega".split(),
        "αβγδεεηθκλμνπρστφψωΔΩ",
        strict=True,
    )
)
FUNCTIONS = {"exp", "log", "tan", "tanh", "max", "min", "mean", "clip", "round", "cos", "sin"}
OPERATORS = {
    "<-": "←",
    "->": "→",
    ">=": "≥",
    "<=": "≤",
    ":=": "≔",
    "+-": "±",
    "-": "−",
    "*": "∗",
    "...": "…",
    "..": "…",
    ".": "⋅",
    "~": "∼",
}
RELATIONS = {"=", "<-", ">=", "<=", ":=", "~", "<", ">"}
TOKEN = re.compile(
    r"""(?P<derivative>d[A-Za-z](?:_\w+)?\ ?/\ ?d[A-Za-z](?:_\w+)?\b)
      | (?P<quoted>"[^"]*"|\b[A-Za-z]{2,}(?:-[A-Za-z]{2,})+\b)
      | (?P<number>\d+(?:\.\d+)?(?:e-?\d+)?)
      | (?P<name>[A-Za-z][A-Za-z0-9]*(?:_[A-Za-z0-9]+)*(?:_(?=[({]))?(?:(?<=[A-Za-z0-9])[+-](?=[\s)^]|$)(?!\s*\d))?'*)
      | (?P<operator><-|->|>=|<=|:=|\+-|\.\.\.?|[-+*/=<>~^|,.()\[\]{}:';])
      | (?P<space>\s+)
      | (?P<other>.)""",
    re.VERBOSE,
)
CLAUSE = re.compile(r"(?<=[;:,])\s{2,}|\s{3,}")
"""Between two statements of one line."""
DEFINED = re.compile(r"([A-Za-z]\w*)(?:\([^)]*\)|\[[^]]*\])?\s*(?:=|<-|:=)(?!=)")


def block(text: str, names: Iterable[str] = ()) -> str:
    """An indented block as HTML: a line for each line; ``names``: options, which are symbols."""
    known = {*names, *DEFINED.findall(text)}
    lines = [_line(line.strip(), known) for line in text.splitlines() if line.strip()]
    return f'<div class="equations">{"".join(f"<p>{line}</p>" for line in lines)}</div>'


def _line(line: str, known: set[str]) -> str:
    clauses = [_clause(clause, known) for clause in CLAUSE.split(line)]
    return "".join(f'<span class="clause">{clause}</span> ' for clause in clauses)


def _clause(text: str, known: set[str]) -> str:
    """Words as they are, and what stands between them as mathematics."""
    tokens = [(m.lastgroup or "", m[0]) for m in TOKEN.finditer(text.replace("``", ""))]
    pieces, run = [], []
    for i, (kind, token) in enumerate(tokens):
        if kind == "quoted" or kind == "other" or (kind == "name" and _is_word(tokens, i, known)):
            pieces += [_runs(run), html.escape(token)]
            run = []
        else:
            run.append((kind, token))
    return "".join([*pieces, _runs(run)])


def _is_word(tokens: list[tuple[str, str]], i: int, known: set[str]) -> bool:
    """Whether a name is a word of the sentence."""
    name = tokens[i][1].rstrip("'+-_")
    base = name.partition("_")[0]
    if name == "a":
        near = [tokens[j][1] for j in (i - 2, i + 2) if 0 <= j < len(tokens)]
        if len(near) == 2 and all(len(word) > 1 and word.isalpha() for word in near):
            return True
    behind = tokens[i + 1][1] if i + 1 < len(tokens) else ""
    if name in known or base in GREEK or base in FUNCTIONS or base in ("sqrt", "dt") or behind in ("/", "^"):
        return False
    if base == "sum":
        return "_" not in tokens[i][1]
    return len(base) > 1 and not re.fullmatch(r"d?[A-Za-z]\d*", base)


def _runs(tokens: list[tuple[str, str]]) -> str:
    """Mathematics between two words, an element for every term, so that a narrow page can break between them."""
    lead = tail = ""
    while tokens and (tokens[0][0] == "space" or tokens[0][1] in ")]"):
        lead, tokens = lead + tokens[0][1], tokens[1:]
    while tokens and (tokens[-1][0] == "space" or tokens[-1][1] in ",;:.(["):
        tail, tokens = tokens[-1][1] + tail, tokens[:-1]
    terms: list[list[tuple[str, str]]] = [[]]
    depth = 0
    for i, (kind, token) in enumerate(tokens):
        if kind == "operator":
            depth += (token in "([{") - (token in ")]}")
            spaced = 0 < i < len(tokens) - 1 and tokens[i - 1][0] == tokens[i + 1][0] == "space"
            if depth == 0 and spaced and token in RELATIONS | {"+", "-"}:
                terms.append([])
        terms[-1].append((kind, token))
    shown = [f'<math displaystyle="true">{_row(term)}</math>' for term in terms if term]
    return html.escape(lead) + " ".join(shown) + html.escape(tail)


def _row(tokens: list[tuple[str, str]], inner: bool = False) -> str:
    """Factors one after the other; at the outside a quotient is a fraction, where it is clear what is divided."""
    found: list[str] = []
    groups: list[str | None] = []
    """What stands in the brackets of every factor that is in brackets."""
    i = 0
    while i < len(tokens):
        kind, token = tokens[i]
        if kind == "space":
            i += 1
            continue
        alone = len(found) == 1 or (len(found) > 1 and found[-2].startswith("<mo"))
        if token == "/" and not inner and found and (alone or tokens[i - 1][0] != "space" or groups[-1]):
            factor, group, i = _factor(tokens, i + 1, inner)
            above = groups[-1] or found[-1]
            found[-1] = f"<mfrac><mrow>{above}</mrow><mrow>{group or factor}</mrow></mfrac>"
            groups[-1] = None
            continue
        side_by_side = (found and kind != "operator") or (found and token in "([")
        if side_by_side and tokens[i - 1][0] == "space" and not found[-1].startswith("<mo"):
            found[-1] += '<mspace width="0.22em"/>'
        factor, group, i = _factor(tokens, i, inner)
        found.append(factor)
        groups.append(group)
    return "".join(found)


def _factor(tokens: list[tuple[str, str]], i: int, inner: bool) -> tuple[str, str | None, int]:
    """A factor with its arguments and exponent, what stands in its brackets if it is nothing else, and the next place."""
    while i < len(tokens) and tokens[i][0] == "space":
        i += 1
    if i >= len(tokens):
        return "", None, i
    kind, token = tokens[i]
    group: str | None = None
    if kind == "derivative":
        above, below = (part.strip()[1:] for part in token.split("/"))
        shown = f"<mfrac><mrow>{_D}{_name(above)}</mrow><mrow>{_D}{_name(below)}</mrow></mfrac>"
    elif kind == "number":
        shown = f"<mn>{token}</mn>"
    elif kind == "name":
        shown, i = _symbol(tokens, i)
    elif token in "([{" and (end := _closing(tokens, i)):
        group = _row(tokens[i + 1 : end], inner=True)
        shown = (
            f'<mrow><mo stretchy="false">{token}</mo>{group}<mo stretchy="false">{tokens[end][1]}</mo></mrow>'
        )
        i = end
    else:
        spaced = i + 1 < len(tokens) and tokens[i + 1][0] == "space"
        shown = _operator(token, first=not any(kind != "space" for kind, _ in tokens[:i]) and not spaced)
    i += 1
    if kind == "name" and i < len(tokens) and tokens[i][1] in "([" and (end := _closing(tokens, i)):
        inside = _row(tokens[i + 1 : end], inner=True)
        if token == "sqrt":
            shown = f"<msqrt>{inside}</msqrt>"
        else:
            left, right = tokens[i][1], tokens[end][1]
            shown = f'<mrow>{shown}<mo stretchy="false">{left}</mo>{inside}<mo stretchy="false">{right}</mo></mrow>'
        i = end + 1
    if i + 1 < len(tokens) and tokens[i][1] == "^":
        exponent, bare, i = _factor(tokens, i + 1, inner=True)
        shown, group = f"<msup>{shown}<mrow>{bare or exponent}</mrow></msup>", None
    return shown, group, i


_D = '<mi mathvariant="normal">d</mi>'


def _symbol(tokens: list[tuple[str, str]], i: int) -> tuple[str, int]:
    """A symbol with what stands below it; a bracket or further index behind it may belong to that."""
    token = tokens[i][1]
    if token.endswith("_") and (end := _closing(tokens, i + 1)):
        below = _row(tokens[i + 2 : end], inner=True)
        i = end
        base = token.rstrip("_")
    else:
        base, _, rest = token.rstrip("'+-").partition("_")
        below = _name(rest, index=True) if rest else ""
    primes = "".join("′" for letter in token if letter == "'")
    sign = token.rstrip("'")[-1:] if token.rstrip("'")[-1:] in ("+", "-") else ""
    # s_j,k has two indices
    while (
        below and i + 2 < len(tokens) and tokens[i + 1][1] == "," and re.fullmatch(r"[a-z]", tokens[i + 2][1])
    ):
        below += f'<mo separator="true">,</mo>{_name(tokens[i + 2][1])}'
        i += 2
    shown = '<mo largeop="true" movablelimits="true">∑</mo>' if base == "sum" else _name(base)
    raised = f"<mo>{primes or OPERATORS.get(sign, sign)}</mo>" if primes or sign else ""
    if base == "sum" and below:
        return f"<munder>{shown}<mrow>{below}</mrow></munder>", i
    if below and raised:
        return f"<msubsup>{shown}<mrow>{below}</mrow>{raised}</msubsup>", i
    if below:
        return f"<msub>{shown}<mrow>{below}</mrow></msub>", i
    return (f"<msup>{shown}{raised}</msup>" if raised else shown), i


def _name(name: str, index: bool = False) -> str:
    """A letter leans, a word stands upright; two letters below another are two indices."""
    base, _, rest = name.partition("_")
    if rest:
        return f"<msub>{_name(base)}<mrow>{_name(rest, index=True)}</mrow></msub>"
    if base in GREEK:
        return f"<mi>{GREEK[base]}</mi>"
    if re.fullmatch(r"d[a-zA-Z]", base):
        return f"<mrow>{_D}<mi>{base[1]}</mi></mrow>"
    if base.isdigit():
        return f"<mn>{base}</mn>"
    if numbered := re.fullmatch(r"([A-Za-z])(\d+)", base):
        return f"<msub><mi>{numbered[1]}</mi><mn>{numbered[2]}</mn></msub>"
    if index and len(base) == 2 and base.islower():
        return "".join(f"<mi>{letter}</mi>" for letter in base)
    return f"<mi>{base}</mi>"


def _operator(token: str, first: bool) -> str:
    shown = html.escape(OPERATORS.get(token, token))
    if token in RELATIONS | {"+", "-"}:
        form = "infix" if token in RELATIONS or not first else "prefix"
        space = "0.28em" if form == "infix" else "0em"
        return f'<mo form="{form}" lspace="{space}" rspace="{space}">{shown}</mo>'
    if token in "|([{)]}":
        return f'<mo stretchy="false">{shown}</mo>'
    return f"<mo>{shown}</mo>"


def _closing(tokens: list[tuple[str, str]], i: int) -> int:
    """The place of the bracket that closes the one at ``i``; 0 where none does."""
    depth = 0
    for j in range(i, len(tokens)):
        kind, token = tokens[j]
        depth += (token in "([{") - (token in ")]}") if kind == "operator" else 0
        if depth == 0:
            return j
    return 0
