"""The formulas of one cell of the lattice, once: for vectors of a CPU's cells and for a thread of a GPU.

Besides sums and products they take eight operations of a device: ``least``, ``where_positive``, ``exp2_minus_abs``,
``log2_1p``, ``log2_inverse`` and ``inverse``; ``double``, which makes float64; and ``function``, which makes of a
formula what the device can call. :mod:`.simd` has those of vectors, which emit instructions, and :mod:`.cuda` those
of a CUDA thread.

V is in units of ``gamma * log(2)``, so that a softmin takes powers and a logarithm of two. ``number`` rounds to the
precision of the input; V, V_dot, E and E_dot are float64. :mod:`loss.soft_dtw` and :mod:`loss.path_soft_dtw` say what
the letters mean.
"""

import math
from types import SimpleNamespace

LN2 = math.log(2.0)


class OneCell:
    """The operations for the numbers of a single cell on the CPU, as far as its formulas take any."""

    double, function = float, staticmethod(lambda formula: formula)
    least = where_positive = exp2_minus_abs = log2_1p = log2_inverse = inverse = None


def formulas(operations) -> SimpleNamespace:
    """The formulas, made of a device's operations."""
    least, where_positive, double = operations.least, operations.where_positive, operations.double
    exp2_minus_abs, log2_1p, function = operations.exp2_minus_abs, operations.log2_1p, operations.function
    inverse_of, log2_inverse = operations.inverse, operations.log2_inverse

    @function
    def softmin(left, up, diagonal, number):
        """Eq. 2: the softmin of V at the three predecessors, then the weights q of left, up and diagonal.

        Two powers are enough: one for left against up, one for the smaller of these against the diagonal. The
        largest of the three is exactly one, so the rest, which is added to it, keeps its digits however small it is.
        """
        one = number(1.0)
        smaller = least(left, up)
        left_minus_up, diagonal_minus_min = number(left - up), number(diagonal - smaller)
        exp_lr, exp_d = number(exp2_minus_abs(left_minus_up)), number(exp2_minus_abs(diagonal_minus_min))
        rest = where_positive(diagonal_minus_min, exp_lr + exp_d, exp_lr * exp_d + exp_d)
        inverse = inverse_of(rest + one)
        q_max = where_positive(diagonal_minus_min, one, exp_d) * inverse
        q_min = q_max * exp_lr
        q_left, q_up = where_positive(left_minus_up, q_min, q_max), where_positive(left_minus_up, q_max, q_min)
        q_diagonal = where_positive(diagonal_minus_min, exp_d, one) * inverse
        return least(smaller, diagonal) - double(log2_1p(rest)), q_left, q_up, q_diagonal

    @function
    def correction(q_left, q_up, q_diagonal):
        """About ``1 / (sum of q)``: rounded weights must not lose or make paths along thousands of steps.

        It is right to second order, for the distance of the sum from one, summed in float64, is exact.
        """
        return 2.0 - (double(q_left) + double(q_diagonal) + double(q_up))

    @function
    def tangent(omega, left, up, diagonal, q_left, q_up, q_diagonal, inverse_gamma, number):
        """Eq. 4: V_dot of a cell from that of its predecessors, then the derivatives of q_left and q_up.

        ``q_dot_p = -q_p (V_dot_p - mean) / gamma`` is written with the differences to the other two predecessors,
        each times the other one's weight: where q_p rounds to one, they still tell how far from one it is.
        """
        from_left, from_up = left - diagonal, up - diagonal
        mean = (double(q_left) * from_left + double(q_up) * from_up) * correction(q_left, q_up, q_diagonal)
        u_left, u_up = number(from_left), number(from_up)
        between = u_up - u_left
        q_dot_left = q_left * inverse_gamma * (q_up * between - q_diagonal * u_left)
        q_dot_up = -q_up * inverse_gamma * (q_left * between + q_diagonal * u_up)
        return omega + diagonal + mean, q_dot_left, q_dot_up

    @function
    def adjoint(q_left, q_up, q_diagonal, left, up, diagonal):
        """The sum of ``q_succ E_succ``: what a cell's successors send back over left, up and diagonal steps."""
        by_left, by_up, by_diagonal = double(q_left) * left, double(q_up) * up, double(q_diagonal) * diagonal
        return by_left + by_up + by_diagonal

    @function
    def adjoint_dot(q_dot_left, q_dot_up, q_dot_left_of_diagonal, q_dot_up_of_diagonal, left, up, diagonal):
        """The sum of ``q_dot_succ E_succ``; q_dot of a diagonal step is minus the other two, to the last digit."""
        q_dot_left, q_dot_up = double(q_dot_left), double(q_dot_up)
        minus_q_dot_diagonal = double(q_dot_left_of_diagonal) + double(q_dot_up_of_diagonal)
        return q_dot_left * left + q_dot_up * up - minus_q_dot_diagonal * diagonal

    @function
    def surprisals(q_left, q_up, q_diagonal):
        """-log2 of each weight; near one a rounded weight has lost its distance from one, which the others have."""
        of_left, of_up = log2_inverse(q_left, q_diagonal + q_up), log2_inverse(q_up, q_left + q_diagonal)
        return of_left, of_up, log2_inverse(q_diagonal, q_left + q_up)

    @function
    def entropy(q_left, q_up, q_diagonal, of_left, of_up, of_diagonal):
        """The entropy of the steps to a cell, from weights and surprisals; of q_dot its derivative along Omega."""
        by_left, by_up = double(q_left) * double(of_left), double(q_up) * double(of_up)
        return (by_left + by_up + double(q_diagonal) * double(of_diagonal)) * LN2

    return SimpleNamespace(
        softmin=softmin,
        correction=correction,
        tangent=tangent,
        adjoint=adjoint,
        adjoint_dot=adjoint_dot,
        surprisals=surprisals,
        entropy=entropy,
    )
