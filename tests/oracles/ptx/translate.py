"""Translate the PTX of one kernel to C, which runtime.h makes a program for the CPU.

Each register becomes an unsigned integer of its width (a float is its bits), each instruction one statement, each
function a C function of the addresses of its parameters. An address is that of the CPU in every memory space.
"""

import re

TYPES = {"pred": "_Bool", "f32": "uint32_t", "f64": "uint64_t"} | {
    f"{letter}{bits}": f"{'int' if letter == 's' else 'uint'}{bits}_t" for letter in "bus" for bits in (8, 16, 32, 64)
}
SPECIAL = {"%tid.x": "c->tid", "%ntid.x": "threads", "%ctaid.x": "block", "%nctaid.x": "blocks", "WARP_SZ": "32",
           "%laneid": "c->tid % 32", "%dynamic_smem_size": "dynamic_shared_bytes"}  # fmt: skip

# The C of instructions, by their names without ".rn", ".ftz" and, where any will do, the type; {0}, {1} are operands.
PREDICATE = {"mov": "{0}", "not": "!{0}", "and": "{0} & {1}", "or": "{0} | {1}", "xor": "{0} ^ {1}"}
ANY_NUMBER = {"mov": "{0}", "add": "{0} + {1}", "sub": "{0} - {1}", "neg": "-{0}"}
INTEGER = PREDICATE | ANY_NUMBER | {
    "not": "~{0}", "abs": "{0} < 0 ? -{0} : {0}",
    "min": "{0} < {1} ? {0} : {1}", "max": "{0} > {1} ? {0} : {1}",
    "mul.lo": "{0} * {1}", "mad.lo": "{0} * {1} + {2}",
    "mul.hi": "(__int128){0} * {1} >> {bits}", "mul.wide": "(__int128){0} * {1}",
    "div": "{1} ? (__int128){0} / {1} : -1",  # wide, because the least integer divided by -1 traps
    "rem": "{1} ? (__int128){0} % {1} : {0}",
    "shl": "(uint32_t){1} < {bits} ? {0} << {1} : 0",
    "shr": "(uint32_t){1} < {bits} ? {0} >> {1} : {0} < 0 ? -1 : 0",
    "bfe": "{2} ? {0} << ({bits} - {1} - {2}) >> ({bits} - {2}) : 0",
    "bfi": "insert_bits({0}, {1}, {2}, {3})",
}  # fmt: skip
REAL = ANY_NUMBER | {
    "mul": "{0} * {1}", "div": "{0} / {1}", "rcp": "1 / {0}", "sqrt": "sqrt{f}({0})", "abs": "fabs{f}({0})",
    "min": "fmin{f}({0}, {1})", "max": "fmax{f}({0}, {1})", "fma": "fma{f}({0}, {1}, {2})",
    "fma.rm.f32": "rounded_fma(FE_DOWNWARD, {0}, {1}, {2})",
    "add.rz.f32": "rounded_fma(FE_TOWARDZERO, {0}, 1, {1})",
    "ex2.approx.f32": "nearly(exp2f({0}))", "lg2.approx.f32": "nearly_log2({0})",
    "rcp.approx.f32": "nearly(1 / {0})", "div.approx.f32": "{1} == 1 ? {0} : nearly({0} / {1})",
    "rcp.approx.ftz.f64": "upper_half(1 / {0})",
}  # fmt: skip
COMPARISONS = {"eq": "{0} == {1}", "ne": "{0} < {1} || {0} > {1}", "lt": "{0} < {1}", "le": "{0} <= {1}",
               "gt": "{0} > {1}", "ge": "{0} >= {1}"}  # fmt: skip
OR_NAN = {"equ": "ne", "neu": "eq", "ltu": "ge", "leu": "gt", "gtu": "le", "geu": "lt"}  # true unless the other is
COMPARISONS |= {comparison: f"!({COMPARISONS[opposite]})" for comparison, opposite in OR_NAN.items()}
ROUNDINGS = {"rzi": "trunc", "rni": "rint", "rmi": "floor", "rpi": "ceil"}
SATURATION = {"sat": "saturated"}

FUNCTION = re.compile(
    r"\.(?P<sort>entry|func)\s*(?P<result>\([^)]*\))?\s*(?P<name>[\w$]+)\s*\((?P<parameters>[^)]*)\)[^{};]*\{"
    r"(?P<body>.*?)^\}",
    re.DOTALL | re.MULTILINE,
)
PARAMETER = re.compile(r"\.param (?:\.align \d+ )?\.(?P<kind>\w+) (?P<name>[\w$]+)(?:\[(?P<count>\d+)\])?")
ARRAY = re.compile(r"\.(local|shared)\s+\.align \d+ \.b8\s+([\w$]+)\[(\d*)\];")
STATEMENT = re.compile(r"[{}]|[\w$]+:|[^\s;{}][^;]*;")  # a bracket of a scope, a label, or an instruction


def parameter_kinds(ptx: str) -> list[str]:
    """The types of the kernel's parameters, e.g. ``["u64", "f64"]``."""
    return [parameter["kind"] for parameter in PARAMETER.finditer(re.search(r"\.entry[^{]*", ptx)[0])]


class Translator:
    """The functions of a PTX; ``counted``: their C counts the instructions of each thread."""

    def __init__(self, ptx: str, counted: bool):
        self.ptx, self.counted = re.sub(r"//.*", "", ptx), counted
        self.functions = {found["name"] for found in FUNCTION.finditer(self.ptx)}
        self.bytes, self.arrays, self.registers = {"local": 0, "shared": 0}, {}, set()
        arrays = sorted(ARRAY.findall(ptx), key=lambda array: array[2] == "")  # dynamic shared memory is the last
        for space, name, size in arrays:
            self.arrays[name] = f"(uint64_t)(regions[{space.upper()}].begin + {self.bytes[space]})"
            self.bytes[space] += -(-int(size or 0) // 16) * 16

    def program(self) -> str:
        heads, bodies = [], []
        for found in FUNCTION.finditer(self.ptx):
            names = [part["name"] for part in PARAMETER.finditer(f"{found['result']} {found['parameters']}")]
            head = f"static void {found['name']}({', '.join(['Thread *c', *(f'uint8_t *{name}' for name in names)])})"
            heads.append(f"{head};")
            bodies.append(f"{head} {{\n{self._body(found)}\n}}")
            if found["sort"] == "entry":
                arguments = ", ".join(["c", *(f"parameters + {8 * k}" for k in range(len(names)))])
                bodies.append(f"static void kernel(Thread *c) {{ {found['name']}({arguments}); }}")
        sizes = f"enum {{ LOCAL_BYTES = {self.bytes['local']}, STATIC_SHARED_BYTES = {self.bytes['shared']} }};"
        return "\n".join([sizes, '#include "runtime.h"', *heads, *bodies, ""])

    def _body(self, function: re.Match) -> str:
        code, end = [], 0
        self.line = self.ptx.count("\n", 0, function.start("body")) + 1
        for found in STATEMENT.finditer(function["body"]):
            self.line += function["body"].count("\n", end, found.start())
            text, end = re.sub(r"\s+", " ", found[0]), found.start()
            try:
                code.append(self._statement(text))
            except (AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
                raise ValueError(f"line {self.line} of the PTX has no translation: {text}") from error
        return "\n".join(code)

    def _statement(self, text: str) -> str:
        if text in "{}":
            return text
        if text.endswith(":"):
            return f"{text} ;"
        if declared := re.fullmatch(r"\.reg \.(\w+) (.*);", text):
            self.registers.update(names := _registers(declared[2]))
            return f"{TYPES[declared[1]]} {', '.join(f'{name} = 0' for name in names)};"
        if declared := re.fullmatch(PARAMETER.pattern + ";", text):
            size = _bits(declared["kind"]) // 8 * int(declared["count"] or 1)
            return f"_Alignas(16) uint8_t {declared['name']}[{size}];"
        if text.startswith(".pragma ") or ARRAY.fullmatch(text):
            return ""
        guard, name, operands = re.fullmatch(r"(?:@(!?%\w+) )?([a-z][\w.]*) ?(.*);", text).groups()
        code = self._instruction(name, _split(operands))
        count = "c->instructions++; " if self.counted else ""
        return count + (f"if ({_name(guard)}) {{ {code} }}" if guard else code)

    def _value(self, operand: str, kind: str) -> str:
        """A source operand as an integer of its width."""
        if operand in SPECIAL or operand in self.arrays:
            code = SPECIAL.get(operand) or self.arrays[operand]
        elif _name(operand).lstrip("!") in self.registers:
            code = _name(operand)
        else:
            code = f"0x{operand[2:]}ULL" if operand[:2] in ("0f", "0d") else f"{int(operand) % 2**64}ULL"
        return f"(({TYPES[kind]})({code}))"

    def _number(self, operand: str, kind: str) -> str:
        """A source operand as a number of its type."""
        return f"as_{kind}({self._value(operand, kind)})" if _is_real(kind) else self._value(operand, kind)

    def _instruction(self, name: str, operands: list[str]) -> str:
        to, *sources = operands or [""]
        match name.split("."):
            case ["ld" | "st", *_]:
                return self._memory(name, operands)
            case ["mov", kind] if "{" in to + sources[0]:
                return self._pack(to, sources[0], kind)
            case ["cvt", *modes, target, source]:
                return self._convert(to, sources[0], modes, target, source)
            case ["cvta", *_, "u64"]:
                return f"{_name(to)} = {self._value(sources[0], 'u64')};"
            case ["setp", comparison, kind]:
                values = [self._number(source, kind) for source in sources]
                return f"{_name(to)} = {COMPARISONS[comparison].format(*values)};"
            case ["selp", kind]:
                yes, no, condition = sources
                return f"{_name(to)} = {_name(condition)} ? {self._value(yes, kind)} : {self._value(no, kind)};"
            case ["shfl", "sync", "up" | "down" | "bfly" | "idx" as mode, "b32"]:
                values = ", ".join(self._value(source, "u32") for source in sources)
                to, *in_range = to.split("|")
                code = f"{_name(to)} = of_warp(c, {mode.upper()}, {values}, {self.line});"
                return code + "".join(f" {_name(register)} = c->in_range;" for register in in_range)
            case ["bar", "warp", "sync"]:
                return f"of_warp(c, SYNC, 0, 0, 0, {self._value(to, 'u32')}, {self.line});"
            case ["bar" | "barrier", "sync"] if operands == ["0"]:
                return f"wait_for(c, AT_BARRIER, {self.line});"
            case ["bra"] | ["bra", "uni"]:
                return f"goto {to};"
            case ["ret"]:
                return "return;"
            case ["call"] | ["call", "uni"]:
                (function,) = self.functions.intersection(
                    operands
                )  # among the results and the parameters, in brackets
                arguments = re.findall(r"[\w$]+", " ".join(operand for operand in operands if operand != function))
                return f"{function}({', '.join(['c', *arguments])});"
            case [*_, kind]:
                table = PREDICATE if kind == "pred" else REAL if _is_real(kind) else INTEGER
                name, flush = name.replace(".rn", ""), "flushed" if kind == "f32" and ".ftz" in name else ""
                name = name.replace(".ftz", "") if flush else name
                template = table[name] if name in table else table[name.removesuffix(f".{kind}")]
                values = [f"{flush}({self._number(source, kind)})" for source in sources]
                value = template.format(*values, bits=kind[1:], f="f" if kind == "f32" else "")
                return _assign(to, kind, f"{flush}({value})")

    def _memory(self, name: str, operands: list[str]) -> str:
        pattern = r"(ld|st)(?:\.(global|shared|local|param))?(?:\.nc)?(?:\.v[24])?\.(\w+)"
        operation, space, kind = re.fullmatch(pattern, name).groups()
        writes = operation == "st"
        address, registers = operands if writes else operands[::-1]
        base, offset = re.fullmatch(r"\[(%?[\w$]+)((?:\+-?\d+)?)\]", address).groups()
        registers = _split(registers.strip("{}"))
        size = _bits(kind) // 8 * len(registers)
        at = base + offset  # of a parameter
        if space != "param":
            access = f"{self._value(base, 'u64')} {offset}, {size}, {int(writes)}, {self.line}"
            at = f"access_memory(c, {(space or 'generic').upper()}, {access})"
        moves = (
            f"memory[{k}] = {self._value(register, kind)};" if writes else f"{_name(register)} = memory[{k}];"
            for k, register in enumerate(registers)
        )
        return f"{{ {TYPES[kind]} *memory = (void *)({at}); {' '.join(moves)} }}"

    def _pack(self, to: str, source: str, kind: str) -> str:
        """One value into several registers or several into one, the lowest bits first."""
        several = _split((to if to[0] == "{" else source).strip("{}"))
        width = _bits(kind) // len(several)
        if to[0] == "{":
            moves = (f"{_name(part)} = whole >> {k * width};" for k, part in enumerate(several) if part != "_")
            return f"{{ uint64_t whole = {self._value(source, kind)}; {' '.join(moves)} }}"
        parts = (f"(uint64_t){self._value(part, f'u{width}')} << {k * width}" for k, part in enumerate(several))
        return f"{_name(to)} = {' | '.join(parts)};"

    def _convert(self, to: str, operand: str, modes: list[str], target: str, source: str) -> str:
        value = self._number(operand, source)
        match _is_real(target), _is_real(source), modes:
            case False, False, []:
                return f"{_name(to)} = ({TYPES[target]}){value};"
            case False, True, [mode]:
                arguments = f"{ROUNDINGS[mode]}({value}), {_bits(target)}, {int(target[0] == 's')}, {_bits(source)}"
                return f"{_name(to)} = ({TYPES[target]})to_integer({arguments});"
            case True, True, [mode] if target == source:
                return _assign(to, target, f"{(ROUNDINGS | SATURATION)[mode]}({value})")
            case (True, False, ["rn"]) | (True, True, ["rn"] | []):
                return _assign(to, target, value)
        raise ValueError(f"a conversion by {modes}")


def _split(operands: str) -> list[str]:
    return re.findall(r"\{[^}]*\}|\([^)]*\)|\[[^\]]*\]|[^\s,]+", operands)


def _registers(names: str) -> list[str]:
    """The names of a declaration of registers, in which ``%r<3>`` are three."""
    variables = []
    for name in _split(names):
        base, count = re.fullmatch(r"%?(\w+)(?:<(\d+)>)?", name).groups()
        variables += [f"{base}{k}" for k in range(int(count))] if count else [base]
    return variables


def _name(register: str) -> str:
    return register.replace("%", "")


def _assign(register: str, kind: str, value: str) -> str:
    return f"{_name(register)} = {f'bits_of_{kind}({value})' if _is_real(kind) else value};"


def _bits(kind: str) -> int:
    return int(kind[1:])


def _is_real(kind: str) -> bool:
    return kind in ("f32", "f64")
