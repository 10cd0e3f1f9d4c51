"""Plants mutants: rewrites functions of a package so that one build holds all their mutants, and each process chooses one.

A function with mutants becomes `match mutant::chosen(function) { 17 => {its body, with mutant 17} ... _ => {its body} }`.
"""

import json
import re
from pathlib import Path

MODULE = Path(__file__).with_name("mutant.rs")
# What has no meaning for the search of braces: comments, strings, characters (not lifetimes).
OPAQUE = re.compile(r'//[^\n]*|/\*.*?\*/|b?r(#*)".*?"\1|b?"(?:\\.|[^"\\])*"|b?\'(?:\\[^\']+|[^\'\\])\'', re.S)
CONST = re.compile(r"\bconst\s+(?=(unsafe\s+)?fn\b)")
INLINE = re.compile(r"#\[inline(\(always\))?\]")
HEAD = re.compile(r"match crate::mutant::chosen\((\d+)\)")
MARK = re.compile(r"/\* (end )?(mutant|function) (\d+) \*/")


class Mutant:
    """One of those that `cargo mutants --list --json` names."""

    def __init__(self, number, listed):
        self.number = number
        self.file = listed["file"]
        self.place, self.name = re.match(r"(\S+:\d+:\d+): (.*)", listed["name"], re.S).groups()
        self.replacement = listed["replacement"]
        self.span = listed["span"]
        self.outer = listed["function"] and listed["function"]["span"]

    @property
    def known_as(self):
        """Without line numbers: those change."""
        return f"{self.file}: {self.name}"

    def __str__(self):
        return f"{self.place}: {self.name}"


class Function:
    """One with mutants: where it stands in its file's text."""

    def __init__(self, number, text, span):
        self.number = number
        self.start, self.end = span
        self.mutants = []
        self.brace = opening_brace(text, self.start)
        self.head = text[self.start : self.brace]
        assert text[self.end - 1] == "}", f"{self.head} has no body"


def read(path):
    return [Mutant(number, listed) for number, listed in enumerate(json.loads(Path(path).read_text()), 1)]


def opening_brace(text, at):
    """That of a function's body: the first outside of brackets and parentheses."""
    depth = 0
    while True:
        if opaque := OPAQUE.match(text, at):
            at = opaque.end()
            continue
        if text[at] == "{" and depth == 0:
            return at
        depth += {"(": 1, "[": 1, ")": -1, "]": -1}.get(text[at], 0)
        at += 1


def offsets(text, span):
    """cargo-mutants counts lines and characters from 1."""
    lines = text.split("\n")
    return [sum(len(line) + 1 for line in lines[: at["line"] - 1]) + at["column"] - 1 for at in (span["start"], span["end"])]


def with_mutant(text, mutant, start, end):
    """The text from start to end, changed."""
    first, last = offsets(text, mutant.span)
    return text[start:first] + mutant.replacement + " " + text[last:end]


class Planted:
    """The mutants of a package, and those of which it turned out that they cannot be planted."""

    def __init__(self, source, folder, mutants):
        self.source, self.folder, self.mutants = Path(source), Path(folder), mutants
        self.uncompiled = set()  # numbers of mutants
        self.alone = {mutant.number for mutant in mutants if not mutant.outer}  # in constants
        self.constant = set()  # names of functions that constants call
        self.functions = {}  # by number of the mutant

    def plant(self):
        number = 0
        self.functions = {}
        for file in sorted({mutant.file for mutant in self.mutants}):
            text = (self.source / file).read_text()
            functions = {}
            for mutant in self.mutants:
                if mutant.file != file or mutant.number in self.uncompiled | self.alone:
                    continue
                span = tuple(offsets(text, mutant.outer))
                if span not in functions:
                    functions[span] = Function(number, text, span)
                    number += 1
                function = functions[span]
                name = re.search(r"\bfn\s+(\w+)", function.head)[1]
                if CONST.search(function.head) and name in self.constant:
                    self.alone.add(mutant.number)
                    continue
                function.mutants.append(mutant)
                self.functions[mutant.number] = function.number
            planted = [function for function in functions.values() if function.mutants]
            self.write(file, rendered(text, sorted(planted, key=lambda function: function.start), 0, len(text)))
        module = MODULE.read_text().replace("[AtomicBool; FUNCTIONS]", f"[AtomicBool; {number}]")
        (self.folder / "src/mutant.rs").write_text(module.replace("; FUNCTIONS]", f"; {number}]"))
        lib = self.folder / "src/lib.rs"
        declared = "\n#[allow(warnings)]\npub mod mutant;\n"
        lib.write_text(lib.read_text().replace(declared, "") + declared)
        return number

    def plant_alone(self, mutant):
        """The package with one mutant and nothing else."""
        for file in {other.file for other in self.mutants}:
            text = (self.source / file).read_text()
            self.write(file, with_mutant(text, mutant, 0, len(text)) if file == mutant.file else text)

    def write(self, file, text):
        path = self.folder / file
        # The mutants of a function, inlined into those of another, and those into a third: the compiler would never end.
        text = INLINE.sub("", text)
        if path.read_text() != text:
            path.write_text(text)

    def leave_out(self, message):
        """What the compiler complains of. False: of nothing that was planted."""
        if found := re.match(r"cannot call non-const .*`(?:[^`]*::)?(\w+)(?:::<.*>)?`", message["message"]):
            before = len(self.constant)
            self.constant.add(found[1])
            return len(self.constant) > before
        spans = sorted(message["spans"], key=lambda span: not span["is_primary"])
        for kind, number in filter(None, (self.planted_at(span) for span in spans)):
            if kind == "mutant":
                self.uncompiled.add(number)
            else:
                self.alone |= {mutant for mutant, function in self.functions.items() if function == number}
            return True
        return False

    def planted_at(self, span):
        while span["expansion"]:
            span = span["expansion"]["span"]
        path = self.folder / span["file_name"]
        if not path.is_file():
            return None
        lines = path.read_text().split("\n")
        inside = []
        for line in lines[: span["line_start"]]:
            for end, kind, number in MARK.findall(line):
                inside = inside[:-1] if end else inside + [(kind, int(number))]
        if not inside and (head := HEAD.search("\n".join(lines[span["line_start"] - 1 : span["line_end"]]))):
            return "function", int(head[1])
        return inside[-1] if inside else None


def rendered(text, functions, start, end):
    """The text from start to end with its functions rewritten. They may stand in each other."""
    out = []
    while functions:
        function = functions[0]
        inner = [other for other in functions[1:] if other.start < function.end]
        functions = functions[1 + len(inner) :]
        out.append(text[start : function.start] + CONST.sub("", function.head))
        out.append(f"{{ match crate::mutant::chosen({function.number}) {{\n")
        first, last = function.brace + 1, function.end - 1
        # Iterators of unnamed types, a type an arm.
        before, after = ("Box::new(", ") as Box<dyn Iterator<Item = _> + Send + '_>") if re.search(r"->\s*impl Iterator", function.head) else ("", "")
        for mutant in function.mutants:
            body = with_mutant(text, mutant, first, last)
            out.append(f"/* mutant {mutant.number} */\n{mutant.number} => {before}{{{body}\n}}{after},\n/* end mutant {mutant.number} */\n")
        body = rendered(text, inner, first, last)
        out.append(f"/* function {function.number} */\n_ => {before}{{{body}\n}}{after},\n/* end function {function.number} */\n}} }}")
        start = function.end
    return "".join(out) + text[start:end]
