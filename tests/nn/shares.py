"""By hand: how a sparsity is shared among layers."""

# a [2, 2], b [4, 2], c [8, 4]: N = 4, 8, 32; raw = 4/4, 6/8, 12/32, so raw * N = 4, 6, 12.
#   S = 0.5:  22 non-zeros to share, epsilon = 22 / 22 = 1
#   S = 0.25: 33 to share, epsilon = 33 / 22 = 1.5 overfills a; then (30 - 1) / 18 overfills b; then (24 - 1 - 2) / 12 = 7/4
# k [4, 2, 3, 3], c [8, 4]: N = 72, 32; 52 non-zeros at S = 0.5
#   er:  raw = 6/8, 12/32; epsilon = 52 / (54 + 12) = 26/33
#   erk: raw = 12/72, 12/32; epsilon = 52 / (12 + 12) = 13/6
LINEARS = {"a": (2, 2), "b": (4, 2), "c": (8, 4)}
CONV = {"k": (4, 2, 3, 3), "c": (8, 4)}
SHARES = {
    "uniform": [(LINEARS, 0.75, {"a": 0.25, "b": 0.25, "c": 0.25}), (CONV, 0.5, {"k": 0.5, "c": 0.5})],
    "er": [
        (LINEARS, 0.5, {"a": 1.0, "b": 0.75, "c": 0.375}),
        (LINEARS, 0.25, {"a": 1.0, "b": 1.0, "c": 21 / 32}),
        (CONV, 0.5, {"k": 13 / 22, "c": 13 / 44}),
    ],
    "erk": [
        (LINEARS, 0.5, {"a": 1.0, "b": 0.75, "c": 0.375}),
        (LINEARS, 0.25, {"a": 1.0, "b": 1.0, "c": 21 / 32}),
        (CONV, 0.5, {"k": 13 / 36, "c": 13 / 16}),
    ],
}
