"""The formulas of a cell of the sweeps, most as loops over one row; :mod:`.tile` says what the letters mean."""

import math

from .simd import exp2, log2_1p, row_loop

# ----------------------------------------------------------------------- forward: costs, values, weights


@row_loop
def fill(rows, at, numbers):
    """Write one number."""
    rows[0].store(at[0], numbers[0])


@row_loop
def square_differences(rows, at, numbers):
    """Cost = what other variables cost + scale * (x - y)**2; float64 keeps the digits of series far from zero."""
    x, y, others, cost = rows
    difference = x.load(at[0]).double() - y.load(at[1]).double()
    cost.store(at[2], others.load(at[2]) + difference * difference * numbers[0])


@row_loop
def add_omega(rows, at, numbers):
    """Cost += scale * Omega (the tangled variant, Eq. 5)."""
    omega, cost = rows
    cost.store(at[1], cost.load(at[1]) + omega.load(at[0]) * numbers[0])


@row_loop
def blank(rows, at, numbers):
    """Write zeros into each of the five parts of the table of weights."""
    (T,) = rows
    for offset in at:
        T.store(offset, numbers[0])


def softmin(first, second, third, number):
    """The softmin of three vectors, in units of log(2), and the weight of each in the precision ``number``.

    Two powers are enough: one for the first against the second, one for the smaller of these against the third. The
    largest of the three is exactly one, so what the others add to it keeps its digits however small it is.
    """
    smaller = first.least(second)
    sideways, across = (first - second).to(number), (third - smaller).to(number)
    lesser = exp2(sideways.minus_abs())  # of the first two, the weight of the larger one; the other one's is 1
    behind = exp2(across.minus_abs())  # likewise for the third and the smaller of these
    third_weight, smaller_weight = across.where_positive(behind, 1.0), across.where_positive(1.0, behind)
    others = across.where_positive(lesser + behind, lesser * behind + behind)
    inverse = 1.0 / (others + 1.0)
    best = smaller_weight * inverse
    other = best * lesser
    weights = sideways.where_positive(other, best), sideways.where_positive(best, other), third_weight * inverse
    return smaller.least(third) - log2_1p(others).double(), weights


@row_loop
def soft_minimum(rows, at, numbers):
    """V = cost + softmin of the three predecessors, and the weights q of each."""
    V, cost, T = rows
    here, left, diagonal, up, at_cost, q_left, q_diagonal, q_up = at
    value, weights = softmin(V.load(left), V.load(up), V.load(diagonal), T.vector.element)
    for offset, weight in zip((q_left, q_up, q_diagonal), weights, strict=True):
        T.store(offset, weight)
    V.store(here, cost.load(at_cost) + value)


def _correction(T, q_left, q_diagonal, q_up):
    """About ``1 / (sum of q)``: rounded weights must not lose or make paths along thousands of steps.

    Right to second order, for the distance of the sum from one, summed in float64, is exact.
    """
    return 2.0 - (T.load(q_left).double() + T.load(q_diagonal).double() + T.load(q_up).double())


@row_loop
def dual_part(rows, at, numbers):
    """V_dot = Omega + mean of V_dot over the predecessors, and the derivatives of the weights q_left and q_up.

    ``q_dot_p = -q_p (V_dot_p - mean) / gamma`` is written with the differences to the other two predecessors,
    each times the other one's weight: where q_p rounds to one, they still tell how far from one it is.
    """
    V_dot, omega, T = rows
    here, left, diagonal, up, at_omega, q_left, q_diagonal, q_up, q_dot_left, q_dot_up = at
    number = T.vector.element
    inverse_gamma = numbers[0].to(number)
    base = V_dot.load(diagonal)
    from_left, from_up = V_dot.load(left) - base, V_dot.load(up) - base
    w_left, w_diagonal, w_up = T.load(q_left), T.load(q_diagonal), T.load(q_up)
    mean = (w_left.double() * from_left + w_up.double() * from_up) * _correction(T, q_left, q_diagonal, q_up)
    V_dot.store(here, omega.load(at_omega) + base + mean)
    u_left, u_up = from_left.to(number), from_up.to(number)
    between = u_up - u_left
    T.store(q_dot_left, w_left * inverse_gamma * (w_up * between - w_diagonal * u_left))
    T.store(q_dot_up, w_up * inverse_gamma * (0.0 - (w_left * between + w_diagonal * u_up)))


# ----------------------------------------------------------------------- backward: the ways that paths came


def _sent_back(T, weights, origins):
    """Sum of the weights of the steps that lead to a cell, each times what its origin holds."""
    left, up, diagonal = (T.load(w).double() * value for w, value in zip(weights, origins, strict=True))
    return left + up + diagonal


@row_loop
def pull(rows, at, numbers):
    """E of a row: what the next row sends back over left and up steps, and the one after it over diagonal steps.

    ``mass`` is what the row will send back itself: E divided by the sum of the weights.
    """
    T, mass, E = rows
    here, in_row, origins, weights, own = at[0], at[1], at[2:5], at[5:8], at[8:11]
    total = _sent_back(T, weights, [mass.load(o) for o in origins])
    correction = _correction(T, *own)
    E.store(in_row, total)
    mass.store(here, total * correction)


@row_loop
def pull_dual(rows, at, numbers):
    """The same for E and E_dot; the derivative of q_diagonal is minus those of q_left and q_up, to the last digit."""
    T, mass, E, mass_dot, E_dot = rows
    here, in_row, origins, weights, own = at[0], at[1], at[2:5], at[5:8], at[8:11]
    dot_left, dot_up, dot_left_diagonal, dot_up_diagonal = (T.load(offset).double() for offset in at[11:])
    of_left, of_up, of_diagonal = masses = [mass.load(o) for o in origins]
    turned = dot_left * of_left + dot_up * of_up - (dot_left_diagonal + dot_up_diagonal) * of_diagonal
    total, correction = _sent_back(T, weights, masses), _correction(T, *own)
    total_dot = _sent_back(T, weights, [mass_dot.load(o) for o in origins]) + turned
    E.store(in_row, total)
    E_dot.store(in_row, total_dot)
    mass.store(here, total * correction)
    mass_dot.store(here, total_dot * correction)


@row_loop
def add_to_series(rows, at, numbers):
    """Chain E through Delta = (x - y)**2: out += E * (x - y)."""
    x, y, E, out = rows
    at_x, at_y, here, to = at
    difference = x.load(at_x).double() - y.load(at_y).double()
    out.store(to, out.load(to) + E.load(here) * difference)


@row_loop
def add_to_series_dual(rows, at, numbers):
    """The same for E and E_dot."""
    x, y, E, out, E_dot, out_dot = rows
    at_x, at_y, here, to = at
    difference = x.load(at_x).double() - y.load(at_y).double()
    sums = out.load(to) + E.load(here) * difference, out_dot.load(to) + E_dot.load(here) * difference
    out.store(to, sums[0])
    out_dot.store(to, sums[1])


# ----------------------------------------------------------------------- the derivative by gamma


def entropies(left, diagonal, up, left_dot, up_dot):
    """Entropy of the steps to a cell, and its derivative along Omega: plain numbers, for every device to compile."""
    entropy, entropy_dot = 0.0, 0.0
    for w, w_dot, others in (
        (left, left_dot, diagonal + up),
        (diagonal, -(left_dot + up_dot), left + up),
        (up, up_dot, left + diagonal),
    ):
        if w > 0.0:
            # near one, a float32 weight has lost its distance from one; the other two have it
            log = math.log1p(-others) if w > 0.5 else math.log(w)
            entropy -= w * log
            entropy_dot -= w_dot * log
    return entropy, entropy_dot
