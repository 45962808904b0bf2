"""Translate the PTX of one kernel to C, which runtime.h completes to a program for the CPU.

Each register becomes an unsigned integer of its width (a float is its bits), each instruction one statement, each
function a C function of the addresses of its parameters. An address is that of the CPU in every memory space.
"""

import re

TYPES = {"pred": "_Bool", "f32": "uint32_t", "f64": "uint64_t"} | {
    f"{letter}{bits}": f"{'int' if letter == 's' else 'uint'}{bits}_t" for letter in "bus" for bits in (8, 16, 32, 64)
}
SPACES = ("global", "shared", "local", "param")
SPECIAL = {
    "%tid.x": "c->tid",
    "%ntid.x": "threads",
    "%ctaid.x": "block",
    "%nctaid.x": "blocks",
    "%laneid": "c->tid % 32",
    "%dynamic_smem_size": "dynamic_shared_bytes",
    "WARP_SZ": "32",
}

# The C of an instruction, by its name with or without the type: {0}, {1} ... are its operands, {bits} their width.
PREDICATE = {"mov": "{0}", "not": "!{0}", "and": "{0} & {1}", "or": "{0} | {1}", "xor": "{0} ^ {1}"}
INTEGER = PREDICATE | {
    "not": "~{0}",
    "add": "{0} + {1}",
    "sub": "{0} - {1}",
    "neg": "-{0}",
    "abs": "{0} < 0 ? -{0} : {0}",
    "min": "{0} < {1} ? {0} : {1}",
    "max": "{0} > {1} ? {0} : {1}",
    "mul.lo": "{0} * {1}",
    "mul.hi": "(__int128){0} * {1} >> {bits}",
    "mul.wide": "(__int128){0} * {1}",
    "mad.lo": "{0} * {1} + {2}",
    "div": "{1} ? (__int128){0} / {1} : -1",  # wide, because the least integer divided by -1 traps
    "rem": "{1} ? (__int128){0} % {1} : {0}",
    "shl": "(uint32_t){1} < {bits} ? {0} << {1} : 0",
    "shr": "(uint32_t){1} < {bits} ? {0} >> {1} : {0} < 0 ? -1 : 0",
    "bfe": "{2} ? {0} << ({bits} - {1} - {2}) >> ({bits} - {2}) : 0",
    "bfi": "insert_bits({0}, {1}, {2}, {3})",
    "popc": "__builtin_popcountll({0})",
    "clz": "{0} ? __builtin_clzll({0}) - (64 - {bits}) : {bits}",
}
REAL = {
    "mov": "{0}",
    "add": "{0} + {1}",
    "sub": "{0} - {1}",
    "mul": "{0} * {1}",
    "add.rn": "{0} + {1}",
    "sub.rn": "{0} - {1}",
    "mul.rn": "{0} * {1}",
    "div.rn": "{0} / {1}",
    "rcp.rn": "1 / {0}",
    "neg": "-{0}",
    "abs": "fabs{f}({0})",
    "min": "fmin{f}({0}, {1})",
    "max": "fmax{f}({0}, {1})",
    "sqrt.rn": "sqrt{f}({0})",
    "fma.rn": "fma{f}({0}, {1}, {2})",
    "fma.rm.f32": "rounded_fma(FE_DOWNWARD, {0}, {1}, {2})",
    "add.rz.f32": "rounded_fma(FE_TOWARDZERO, {0}, 1, {1})",
    "ex2.approx.f32": "nearly(exp2f({0}))",
    "ex2.approx.ftz.f32": "flushed(nearly(exp2f(flushed({0}))))",
    "lg2.approx.f32": "nearly_log2({0})",
    "lg2.approx.ftz.f32": "nearly_log2(flushed({0}))",
    "rcp.approx.ftz.f32": "flushed(nearly(1 / flushed({0})))",
    "rcp.approx.ftz.f64": "upper_half(1 / {0})",
    "div.approx.f32": "{1} == 1 ? {0} : nearly({0} / {1})",
    "div.full.f32": "{1} == 1 ? {0} : nearly({0} / {1})",
}
COMPARISONS = {
    "eq": "{0} == {1}",
    "ne": "{0} < {1} || {0} > {1}",  # false for NaN
    "lt": "{0} < {1}",
    "le": "{0} <= {1}",
    "gt": "{0} > {1}",
    "ge": "{0} >= {1}",
    "equ": "!({0} < {1} || {0} > {1})",
    "neu": "{0} != {1}",
    "ltu": "!({0} >= {1})",
    "leu": "!({0} > {1})",
    "gtu": "!({0} <= {1})",
    "geu": "!({0} < {1})",
}
ROUNDINGS = {"rzi": "trunc", "rni": "rint", "rmi": "floor", "rpi": "ceil"}

_FUNCTION = re.compile(
    r"\.(?P<sort>entry|func)\s*(?P<result>\([^)]*\))?\s*(?P<name>[\w$]+)\s*\((?P<parameters>[^)]*)\)[^{};]*\{"
    r"(?P<body>.*?)^\}",
    re.DOTALL | re.MULTILINE,
)
_PARAMETER = re.compile(r"\.param (?:\.align \d+ )?\.(?P<kind>\w+) (?P<name>[\w$]+)(?:\[(?P<count>\d+)\])?")


def parameter_kinds(ptx: str) -> list[str]:
    """The types of the kernel's parameters, e.g. ``["u64", "f64"]``."""
    return [parameter["kind"] for parameter in _PARAMETER.finditer(re.search(r"\.entry[^{]*", ptx)[0])]


def to_c(ptx: str, counted: bool = False) -> str:
    """The C of the kernel and its functions; ``counted``: it counts the instructions of each thread."""
    return _Translator(re.sub(r"//.*", "", ptx), counted).program()


class _Translator:
    def __init__(self, ptx: str, counted: bool):
        self.ptx, self.counted = ptx, counted
        self.functions = {found["name"]: found for found in _FUNCTION.finditer(ptx)}
        self.sizes = {"local": 0, "shared": 0}
        self.arrays = {}
        arrays = re.findall(r"\.(local|shared)\s+\.align \d+ \.b8\s+([\w$]+)\[(\d*)\];", ptx)
        for space, name, size in sorted(
            arrays, key=lambda array: not array[2]
        ):  # shared memory of no size comes last
            self.arrays[name] = f"c->{space} + {self.sizes[space]}"
            self.sizes[space] += -(-int(size or 0) // 16) * 16

    def program(self) -> str:
        kernel = next(name for name, found in self.functions.items() if found["sort"] == "entry")
        arguments = "".join(f", parameters[{k}]" for k in range(len(self._parameters(kernel))))
        return "\n".join([
            f"enum {{ LOCAL_BYTES = {self.sizes['local']}, STATIC_SHARED_BYTES = {self.sizes['shared']} }};",
            '#include "runtime.h"',
            *(f"{self._head(name)};" for name in self.functions),
            *(f"{self._head(name)} {{\n{self._body(found)}\n}}" for name, found in self.functions.items()),
            f"static void kernel(Thread *c) {{ {kernel}(c{arguments}); }}\n",
        ])  # fmt: skip

    def _parameters(self, function: str) -> list[str]:
        """The names of the result and the parameters."""
        found = self.functions[function]
        return [parameter["name"] for parameter in _PARAMETER.finditer(f"{found['result']} {found['parameters']}")]

    def _head(self, function: str) -> str:
        return f"static void {function}(Thread *c{''.join(f', uint8_t *{p}' for p in self._parameters(function))})"

    def _body(self, function: re.Match) -> str:
        lines = []
        for found in re.finditer(r"[{}]|[\w$]+:|[^\s;{}][^;]*;", function["body"]):
            text = re.sub(r"\s+", " ", found[0])
            number = self.ptx.count("\n", 0, function.start("body") + found.start()) + 1
            try:
                lines.append(self._line(text, number))
            except (AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
                raise ValueError(f"PTX, line {number}: no translation of {text!r}") from error
        return "\n".join(lines)

    def _line(self, text: str, number: int) -> str:
        if text in "{}":
            return text
        if text.endswith(":"):
            return f"{text} ;"
        if declared := re.fullmatch(r"\.reg \.(\w+) (.*);", text):
            return f"{TYPES[declared[1]]} {', '.join(_registers(declared[2]))};"
        if declared := re.fullmatch(_PARAMETER.pattern + ";", text):
            return (
                f"_Alignas(16) uint8_t {declared['name']}[{_bytes(declared['kind']) * int(declared['count'] or 1)}];"
            )
        if text.startswith((".local ", ".shared ", ".pragma ")):
            return ""
        guard, name, operands = re.fullmatch(r"(?:@(!?%\w+) )?([a-z][\w.]*) ?(.*);", text).groups()
        code = self._instruction(name, _split(operands), number)
        count = "c->instructions++; " if self.counted else ""
        return count + (f"if ({_name(guard)}) {{ {code} }}" if guard else code)

    # ------------------------------------------------------------------- operands

    def _bits(self, operand: str, kind: str) -> str:
        """A source operand as an integer of its width."""
        if operand in SPECIAL:
            c = SPECIAL[operand]
        elif operand in self.arrays:
            c = f"(uint64_t)({self.arrays[operand]})"
        elif operand[0] in "%!":
            c = _name(operand)
        elif operand[:2] in ("0f", "0d"):
            c = f"0x{operand[2:]}ULL"
        else:
            c = f"{int(operand) % 2**64}ULL"
        return f"({TYPES[kind]})({c})"

    def _number(self, operand: str, kind: str) -> str:
        """A source operand as a number of its type."""
        return f"as_{kind}({self._bits(operand, kind)})" if _is_real(kind) else f"({self._bits(operand, kind)})"

    def _memory(self, operand: str, space: str, size: int, writes: bool, number: int) -> str:
        """The checked address of an access to memory."""
        base, offset = re.fullmatch(r"\[(%?[\w$]+)((?:\+-?\d+)?)\]", operand).groups()
        if space == "param":
            return base + offset
        return (
            f"access_memory(c, {space.upper()}, {self._bits(base, 'u64')} {offset}, {size}, {int(writes)}, {number})"
        )

    # ------------------------------------------------------------------- instructions

    def _instruction(self, name: str, operands: list[str], number: int) -> str:
        to = operands[0] if operands else ""
        match name.split("."):
            case ["ld" | "st" as name, *modifiers, kind]:
                return self._load_or_store(name == "st", modifiers, kind, operands, number)
            case ["mov", kind] if "{" in to + operands[1]:
                return self._pack_or_unpack(kind, *operands)
            case ["cvt", *modes, target, source]:
                return self._convert(modes, target, source, *operands)
            case ["cvta", *_, "u64"]:
                return f"{_name(to)} = {self._bits(operands[1], 'u64')};"
            case ["setp", comparison, kind]:
                values = [self._number(operand, kind) for operand in operands[1:]]
                return f"{_name(to)} = {COMPARISONS[comparison].format(*values)};"
            case ["selp", kind]:
                to, yes, no, condition = operands
                return f"{_name(to)} = {_name(condition)} ? {self._bits(yes, kind)} : {self._bits(no, kind)};"
            case ["shfl", "sync", mode, "b32"]:
                values = [self._bits(operand, "u32") for operand in operands[1:]]
                to, *in_range = to.split("|")
                code = f"{_name(to)} = together(c, {WARP_MODES[mode]}, {', '.join(values)}, {number});"
                return code + "".join(f" {_name(register)} = c->in_range;" for register in in_range)
            case ["vote", "sync", mode, "pred" | "b32"]:
                _, vote, mask = operands
                values = f"{self._bits(vote, 'pred')}, 0, 0, {self._bits(mask, 'u32')}"
                return f"{_name(to)} = together(c, {WARP_MODES[mode]}, {values}, {number});"
            case ["bar", "warp", "sync"]:
                return f"together(c, SYNC, 0, 0, 0, {self._bits(to, 'u32')}, {number});"
            case ["bar" | "barrier", "sync"] if operands == ["0"]:
                return f"barrier(c, {number});"
            case ["bra"] | ["bra", "uni"]:
                return f"goto {to};"
            case ["call"] | ["call", "uni"]:
                return self._call(operands)
            case ["ret"]:
                return "return;"
            case [*_, kind]:
                return self._arithmetic(name, kind, *operands)

    def _arithmetic(self, name: str, kind: str, to: str, *operands: str) -> str:
        table = PREDICATE if kind == "pred" else REAL if _is_real(kind) else INTEGER
        template = table[name] if name in table else table[name.removesuffix(f".{kind}")]
        values = [self._number(operand, kind) for operand in operands]
        result = template.format(*values, bits=kind[1:], f="f" if kind == "f32" else "")
        return _assign(to, result, kind)

    def _load_or_store(self, writes: bool, modifiers: list[str], kind: str, operands: list[str], number: int) -> str:
        space, *modifiers = modifiers if modifiers and modifiers[0] in SPACES else ["generic", *modifiers]
        if modifiers not in ([], ["nc"], ["v2"], ["v4"], ["nc", "v2"], ["nc", "v4"]):
            raise ValueError(f"modifiers {modifiers}")
        address, registers = operands if writes else reversed(operands)
        registers = _split(registers.strip("{}"))
        memory = self._memory(address, space, _bytes(kind) * len(registers), writes, number)
        moves = [
            f"memory[{k}] = {self._bits(register, kind)};" if writes else f"{_name(register)} = memory[{k}];"
            for k, register in enumerate(registers)
        ]
        return f"{{ {TYPES[kind]} *memory = (void *)({memory}); {' '.join(moves)} }}"

    def _pack_or_unpack(self, kind: str, to: str, source: str) -> str:
        """One value into several registers or several into one, the lowest bits first."""
        several = _split((to if to[0] == "{" else source).strip("{}"))
        width = 8 * _bytes(kind) // len(several)
        if to[0] == "{":
            moves = (f"{_name(part)} = whole >> {k * width};" for k, part in enumerate(several) if part != "_")
            return f"{{ uint64_t whole = {self._bits(source, kind)}; {' '.join(moves)} }}"
        parts = (f"(uint64_t){self._bits(part, f'u{width}')} << {k * width}" for k, part in enumerate(several))
        return f"{_name(to)} = {' | '.join(parts)};"

    def _convert(self, modes: list[str], target: str, source: str, to: str, operand: str) -> str:
        value = self._number(operand, source)
        match _is_real(target), _is_real(source), modes:
            case False, False, []:
                value = f"({TYPES[target]}){value}"
            case False, True, [mode]:
                bits, signed = 8 * _bytes(target), int(target[0] == "s")
                value = f"({TYPES[target]})to_integer({ROUNDINGS[mode]}({value}), {bits}, {signed}, {_bytes(source)})"
            case True, True, ["sat"] if target == source == "f32":
                value = f"saturated({value})"
            case True, _, ["rn"] if target != source:
                pass  # the conversion of C
            case True, True, [] if (target, source) == ("f64", "f32"):
                pass
            case True, True, [mode] if target == source:
                value = f"{ROUNDINGS[mode]}({value})"
            case _:
                raise ValueError(f"modes {modes}")
        return _assign(to, value, target)

    def _call(self, operands: list[str]) -> str:
        """``(result), function, (parameters)``; the first and the last may be missing."""
        function = next(operand for operand in operands if operand[0] != "(")
        if function not in self.functions:
            raise ValueError(f"function {function}")
        arguments = [f", {name}" for operand in operands if operand[0] == "(" for name in _split(operand.strip("()"))]
        return f"{function}(c{''.join(arguments)});"


WARP_MODES = {mode: mode.upper() for mode in ("up", "down", "bfly", "idx", "any", "all", "ballot")}


def _split(operands: str) -> list[str]:
    return re.findall(r"\{[^}]*\}|\([^)]*\)|\[[^\]]*\]|[^\s,]+", operands)


def _registers(names: str) -> list[str]:
    """The C variables of a declaration of registers: ``%r<3>`` is three."""
    variables = []
    for name in _split(names):
        base, count = re.fullmatch(r"%?(\w+)(?:<(\d+)>)?", name).groups()
        variables += [f"{base}{k} = 0" for k in range(int(count))] if count else [f"{base} = 0"]
    return variables


def _name(register: str) -> str:
    return register.replace("%", "")


def _assign(register: str, value: str, kind: str) -> str:
    return f"{_name(register)} = {f'bits_of_{kind}({value})' if _is_real(kind) else value};"


def _bytes(kind: str) -> int:
    return int(kind[1:]) // 8


def _is_real(kind: str) -> bool:
    return kind in ("f32", "f64")
