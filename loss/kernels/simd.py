"""Loops over the cells of a row, sixteen at a time, written as formulas.

LLVM vectorises a loop only if it can tell that its arrays do not overlap, that its body has no calls, and that
the effort pays; a soft-DTW cell, with two exponentials, a logarithm and a dozen arrays of two precisions, is
beyond what it finds by itself. So the formula of a cell is written once, in Python, on :class:`Vector` operands,
and :func:`row_loop` turns it into a numba function whose instructions work on sixteen cells at a time. It is plain
LLVM vector code: the compiler maps it onto AVX-512, AVX2, SSE or NEON registers.

Rows are given by typed pointers (:func:`pointers`), for numba counts the references to an array around every use of
it, and a row is short. The caller keeps the arrays alive.

A loop runs on to the next multiple of sixteen cells, so rows have room for :data:`SLACK` cells more than they use;
where they have not, ``overrun=False`` does the last cells one by one.
"""

import math
import platform

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

LANES = 16
SLACK = LANES

_INDEX = ir.IntType(64)
_SCALARS = {types.float32: ir.FloatType(), types.float64: ir.DoubleType()}
_INTEGERS = {ir.FloatType(): ir.IntType(32), ir.DoubleType(): ir.IntType(64)}
# A product and a sum may become one fused instruction; nothing else is allowed to change.
_FLAGS = ("contract",)


class Vector:
    """Sixteen numbers of one type, or a single one, and the arithmetic on them as LLVM instructions."""

    def __init__(self, builder, value):
        self.builder, self.value = builder, value

    @property
    def scalar(self):
        """The LLVM type of one entry."""
        return self.value.type.element

    @property
    def lanes(self):
        """How many numbers they are."""
        return self.value.type.count

    def _constant(self, number):
        return ir.Constant(self.value.type, [number] * self.lanes)

    def _coerce(self, other):
        return other.value if isinstance(other, Vector) else self._constant(other)

    def _new(self, value):
        return Vector(self.builder, value)

    def __add__(self, other):
        return self._new(self.builder.fadd(self.value, self._coerce(other), flags=_FLAGS))

    def __sub__(self, other):
        return self._new(self.builder.fsub(self.value, self._coerce(other), flags=_FLAGS))

    def __rsub__(self, other):
        return self._new(self.builder.fsub(self._coerce(other), self.value, flags=_FLAGS))

    def __mul__(self, other):
        return self._new(self.builder.fmul(self.value, self._coerce(other), flags=_FLAGS))

    def __neg__(self):
        return self._new(self.builder.fneg(self.value))

    def __truediv__(self, other):
        return self._new(self.builder.fdiv(self.value, self._coerce(other)))

    def __rtruediv__(self, other):
        return self._new(self.builder.fdiv(self._coerce(other), self.value))

    def least(self, other):
        """The smaller of two; ``self`` where either is NaN."""
        other = self._coerce(other)
        return self._new(self.builder.select(self.builder.fcmp_ordered("<", other, self.value), other, self.value))

    def at_least(self, number):
        """The larger of an entry and a number; NaN stays NaN."""
        bound = self._constant(number)
        return self._new(self.builder.select(self.builder.fcmp_ordered("<", self.value, bound), bound, self.value))

    def to(self, scalar):
        """The same numbers in another precision."""
        if scalar == self.scalar:
            return self
        convert = self.builder.fpext if isinstance(scalar, ir.DoubleType) else self.builder.fptrunc
        return self._new(convert(self.value, ir.VectorType(scalar, self.lanes)))

    def double(self):
        """The same numbers as float64."""
        return self.to(ir.DoubleType())

    def polynomial(self, coefficients):
        """Estrin's scheme, which is a shorter chain than Horner's; the coefficient of the highest power first."""
        terms, power = [self._new(self._constant(c)) for c in reversed(coefficients)], self
        while len(terms) > 1:
            pairs = [terms[k] + terms[k + 1] * power for k in range(0, len(terms) - 1, 2)]
            terms, power = pairs + terms[2 * len(pairs) :], power * power
        return terms[0]


@intrinsic
def pointer(typing_context, array, offset):
    """The address of an entry of an array, with its type; it may be indexed, and does not keep the array alive."""

    def generate(context, builder, signature, arguments):
        return builder.gep(context.make_array(array)(context, builder, arguments[0]).data, [arguments[1]])

    return types.CPointer(array.dtype)(array, offset), generate


@intrinsic
def pointers(typing_context, parts):
    """The same NamedTuple with a pointer in place of each array, which may be indexed; it keeps no array alive."""
    kinds = [types.CPointer(part.dtype) if isinstance(part, types.Array) else part for part in parts.types]
    result = types.NamedTuple(kinds, parts.instance_class)

    def generate(context, builder, signature, arguments):
        values = [
            context.make_array(part)(context, builder, value).data if isinstance(part, types.Array) else value
            for part, value in zip(parts.types, cgutils.unpack_tuple(builder, arguments[0]), strict=True)
        ]
        return context.make_tuple(builder, result, values)

    return result(parts), generate


class Row:
    """A pointer within a loop: offsets are counted from where it points."""

    def __init__(self, builder, pointer, scalar, lanes):
        self.builder, self.vector = builder, ir.VectorType(scalar, lanes)
        self.pointer, self.align = pointer, 4 if isinstance(scalar, ir.FloatType) else 8

    def number(self, value):
        """A vector in the precision of this row; a constant stays what it is, and takes that of its partner."""
        return value.to(self.vector.element) if isinstance(value, Vector) else value

    def _address(self, offset):
        return self.builder.bitcast(self.builder.gep(self.pointer, [offset]), self.vector.as_pointer())

    def load(self, offset):
        """The cells from ``offset`` on."""
        return Vector(self.builder, self.builder.load(self._address(offset), align=self.align))

    def store(self, offset, vector):
        """Write the cells from ``offset`` on, in the array's own precision."""
        self.builder.store(vector.to(self.vector.element).value, self._address(offset), align=self.align)


def row_loop(formula, *, overrun=True):
    """Make ``formula(rows, offsets, numbers)`` a numba function ``(pointers, offsets, numbers, n)`` over n cells.

    ``pointers`` is a tuple, which the formula sees as :class:`Row`; ``offsets`` is a tuple of integers, which it sees
    advanced to the current cell; ``numbers`` is a tuple of float64 scalars, which it sees as :class:`Vector`.
    ``numbers`` may be empty. Without ``overrun`` the cells behind the last whole vector are done one by one.
    """

    @intrinsic
    def loop(typing_context, pointers, offsets, numbers, n):
        signature = types.void(pointers, offsets, numbers, n)

        def generate(context, builder, signature, arguments):
            pointer_values, offset_values, number_values = (
                cgutils.unpack_tuple(builder, value) for value in arguments[:3]
            )

            def cells(start, stop, lanes):
                rows = [
                    Row(builder, value, _SCALARS[kind.dtype], lanes)
                    for kind, value in zip(pointers.types, pointer_values, strict=True)
                ]
                constants = [_spread(builder, value, lanes) for value in number_values]
                step = ir.Constant(_INDEX, lanes)
                with cgutils.for_range_slice(builder, start, stop, step, _INDEX) as (p, _):
                    formula(rows, [builder.add(o, p) for o in offset_values], constants)

            zero, n = ir.Constant(_INDEX, 0), arguments[3]
            if overrun:
                cells(zero, n, LANES)
            else:
                whole = builder.and_(n, ir.Constant(_INDEX, -LANES))
                cells(zero, whole, LANES)
                cells(whole, n, 1)
            return context.get_dummy_value()

        return signature, generate

    loop.__doc__ = formula.__doc__
    return loop


def _spread(builder, number, lanes):
    vector_type = ir.VectorType(number.type, lanes)
    vector = ir.Constant(vector_type, ir.Undefined)
    for k in range(lanes):
        vector = builder.insert_element(vector, number, ir.Constant(ir.IntType(32), k))
    return Vector(builder, vector)


# ----------------------------------------------------------------------- denormal numbers
# The control register of the floating-point unit, per thread, has a bit that makes results below the smallest
# normal number zero, and on x86 another one that reads such operands as zero.

_X86, _ARM = platform.machine() in ("x86_64", "AMD64"), platform.machine() in ("arm64", "aarch64")
_FLUSH = 0x8040 if _X86 else 1 << 24


def _intrinsic(builder, name, result, arguments):
    function = cgutils.get_or_insert_function(
        builder.module, ir.FunctionType(result, [a.type for a in arguments]), name
    )
    return builder.call(function, arguments)


def _read_state(builder):
    if _ARM:
        return _intrinsic(builder, "llvm.aarch64.get.fpcr", _INDEX, [])
    if not _X86:
        return ir.Constant(_INDEX, 0)
    slot = cgutils.alloca_once(builder, ir.IntType(32))
    _intrinsic(builder, "llvm.x86.sse.stmxcsr", ir.VoidType(), [builder.bitcast(slot, cgutils.voidptr_t)])
    return builder.zext(builder.load(slot), _INDEX)


def _write_state(builder, state):
    if _ARM:
        _intrinsic(builder, "llvm.aarch64.set.fpcr", ir.VoidType(), [state])
    if _X86:
        slot = cgutils.alloca_once_value(builder, builder.trunc(state, ir.IntType(32)))
        _intrinsic(builder, "llvm.x86.sse.ldmxcsr", ir.VoidType(), [builder.bitcast(slot, cgutils.voidptr_t)])


@intrinsic
def flush_denormals(typing_context):
    """Make this thread treat denormal numbers as zero; returns what :func:`restore_denormals` takes."""

    def generate(context, builder, signature, arguments):
        state = _read_state(builder)
        _write_state(builder, builder.or_(state, ir.Constant(_INDEX, _FLUSH)))
        return state

    return types.int64(), generate


@intrinsic
def restore_denormals(typing_context, state):
    """Undo :func:`flush_denormals`."""

    def generate(context, builder, signature, arguments):
        _write_state(builder, arguments[0])
        return context.get_dummy_value()

    return types.void(types.int64), generate


# ----------------------------------------------------------------------- powers and logarithms of two
# float32: the Chebyshev interpolants of 2**r on [-1/2, 1/2] and of log2(1 + u) / u, u - 1 on [-1, 1], of the lowest
# degree that reaches float32's precision. float64: the Taylor series of 2**r, and a Newton step from the float32
# logarithm.

_LN2 = math.log(2.0)


def _chebyshev(function, degree, half_width):
    interpolant = np.polynomial.Chebyshev.interpolate(function, degree, domain=[-half_width, half_width])
    return interpolant.convert(kind=np.polynomial.Polynomial, domain=[-1, 1], window=[-1, 1]).coef[::-1]


def _log2_ratio(u_less_one):
    u = 1 + u_less_one
    return np.where(u == 0, 1, np.log1p(u)) / np.where(u == 0, 1, u) / _LN2


_LOG2_32 = [float(np.float32(c)) for c in _chebyshev(_log2_ratio, 12, 1.0)]
_EXP2 = {  # coefficients, 1.5 * 2**mantissa bits, mantissa bits, exponent bias
    ir.FloatType(): (
        [float(np.float32(c)) for c in _chebyshev(np.exp2, 6, 0.5)],
        1.5 * 2**23,
        23,
        127,
    ),
    ir.DoubleType(): (
        [_LN2**k / math.factorial(k) for k in range(13, -1, -1)],
        1.5 * 2**52,
        52,
        1023,
    ),
}


def exp2(x):
    """Two to the power of x <= 0, and zero where that is no normal number; NaN for NaN."""
    coefficients, shift, mantissa, bias = _EXP2[x.scalar]
    builder, integers = x.builder, ir.VectorType(_INTEGERS[x.scalar], x.lanes)
    x = x.at_least(-float(bias))  # the exponent of -bias is that of zero
    shifted = x + shift  # its last bits are x, rounded to an integer
    r = x - (shifted - shift)
    exponent = builder.shl(builder.bitcast(shifted.value, integers), ir.Constant(integers, [mantissa] * x.lanes))
    power = builder.add(exponent, ir.Constant(integers, [bias << mantissa] * x.lanes))
    return r.polynomial(coefficients) * Vector(builder, builder.bitcast(power, x.value.type))


# ----------------------------------------------------------------------- the other operations of a cell's formulas


def function(formula):
    """A formula stays a function of Python, which emits instructions while it runs."""
    return formula


def least(a, b):
    """The smaller of two; ``a`` where either is NaN."""
    return a.least(b)


def where_positive(condition, then, otherwise):
    """``then`` where an entry is above zero, else ``otherwise``; both may be vectors or numbers."""
    positive = condition.builder.fcmp_ordered(">", condition.value, condition._constant(0.0))
    return condition._new(condition.builder.select(positive, condition._coerce(then), condition._coerce(otherwise)))


def exp2_minus_abs(x):
    """Two to the power of minus the absolute value."""
    bits = ir.VectorType(_INTEGERS[x.scalar], x.lanes)
    sign = ir.Constant(bits, [1 << (bits.element.width - 1)] * x.lanes)
    negative = x.builder.or_(x.builder.bitcast(x.value, bits), sign)
    return exp2(x._new(x.builder.bitcast(negative, x.value.type)))


def double(x):
    """The same numbers as float64."""
    return x.double()


def log2_1p(u):
    """The logarithm to base 2 of 1 + u, u in [0, 2]; NaN for NaN."""
    if isinstance(u.scalar, ir.FloatType):
        return (u - 1.0).polynomial(_LOG2_32) * u
    first = log2_1p(u.to(ir.FloatType())).double()
    z = (u + 1.0) * exp2(0.0 - first) - 1.0  # about 1e-7: two terms of log(1 + z) are enough
    return first + (z - z * z * 0.5) * (1.0 / _LN2)


def log2_inverse(q, rest):
    """-log2 of q, which is from 0 to 1, and 1 - q to all digits; a large number where q is zero, NaN for NaN."""
    _, _, mantissa, bias = _EXP2[q.scalar]
    builder, integers = q.builder, ir.VectorType(_INTEGERS[q.scalar], q.lanes)

    def of(number):
        return ir.Constant(integers, [number] * q.lanes)

    q = q.at_least(2.0 ** (1 - bias))
    bits = builder.bitcast(q.value, integers)
    exponent = q._new(builder.sitofp(builder.sub(builder.lshr(bits, of(mantissa)), of(bias)), q.value.type))
    fraction = builder.or_(builder.and_(bits, of((1 << mantissa) - 1)), of(bias << mantissa))  # from 1 to 2
    log = log2_1p(where_positive(q - 0.5, rest / q, q._new(builder.bitcast(fraction, q.value.type)) - 1.0))
    return where_positive(q - 0.5, log, -exponent - log)


def inverse(x):
    """1 / x."""
    return 1.0 / x
