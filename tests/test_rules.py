"""Each rule on matrices that are written out: what its line of code does to a few samples, counted by hand."""

from collections.abc import Iterator
from dataclasses import replace

import pytest
from accumcheck.programs.laws import LAWS
from accumcheck.programs.rules import MEANS, RIGHT, TABLES, Program, Rule, Shape
from accumcheck.programs.simulate import Units, simulate

from tests.literals import TOKENS, rows

# Lines are: rule | n b k epochs, and ranks if there are several | matrix.

VISITS = """
every | 3 1 2 2 | 1/2*2 0 / 0*2 1 / 1/2*2 0 / 0*2 1
every | 7 2 2 2 | 1/4*4 0*3 / 0*4 1/3*3 / 1/4*4 0*3 / 0*4 1/3*3
first epoch | 3 1 2 2 | 1/2*2 0 / 0*2 1
whole windows | 3 1 2 2 | 1/2*2 0 / 1/2*2 0
whole windows | 7 2 2 1 | 1/4*4 0*3 / 0*4 1/3*3
whole windows of samples | 7 2 2 2 | 1/4*4 0*3 / 1/4*4 0*3
skips short | 7 2 2 2 | 1/4*4 0*3 / 1/4*4 1/3*2 0
leaves out short | 3 2 2 2 | 1/3*2 0 / 1/3*2 0
leaves out short | 7 2 2 1 | 1/4*4 0*3 / 0*4 1/3*2 0
stream | 3 1 2 2 | 1/2*2 0 / 1/2 0 1/2 / 0 1/2*2
stream | 3 1 4 2 | 1/2 1/4*2
stream, rounded up | 3 1 4 2 | 1/2 1/4*2 / 1/4 1/2 1/4
stream, rounded up | 2 3 2 3 | 1/2*2 / 1/2*2
stream, by epochs | 3 1 2 2 | 1/2*2 0 / 1/2 0 1/2 / 0 1/2*2 / 1/2*2 0
stream, whole windows | 3 1 2 2 | 1/2*2 0 / 1/2 0 1/2
stream of samples | 3 2 2 2 | 1/2 1/4*2 / 1/4 1/2 1/4
until max_steps | 3 1 2 2 | 1/2*2 0 / 0*2 1 / 1/2*2 0 / 0*2 1
"""

STEPS = """
window or end | 7 1 4 2 | 1/4*4 0*3 / 0*4 1/3*3 / 1/4*4 0*3 / 0*4 1/3*3
window or end | 7 1 2 1 | 1/2*2 0*5 / 0*2 1/2*2 0*3 / 0*4 1/2*2 0 / 0*6 1
every | 4 1 4 1 | 1/4 0*3 / 0 1/4 0*2 / 0*2 1/4 0 / 0*3 1/4
early | 3 1 3 2 | 1/3 0*2 / 1/3*3
early | 3 1 2 2 | 1/2 0*2 / 0 1/2 1 / 1/2 0*2 / 0 1/2 1
early or end | 3 1 3 2 | 1/3 0*2 / 0 1/3*2 / 1/3 0*2 / 0 1/3*2
early count | 4 1 3 2 | 1/3 0*3 / 0 1/3*2 1 / 1/3*3 0
window | 4 1 3 2 | 1/3*3 0 / 1/3*3 1
window | 4 1 2 1 | 1/2*2 0*2 / 0*2 1/2*2
count | 3 1 2 2 | 1/2*2 0 / 1/2 0 1 / 0 1/2 1
count | 3 1 4 2 | 2/3 1/3*2
count | 3 2 2 2 | 1/3*3 / 1/3*3
count or last | 3 1 4 2 | 2/3 1/3*2 / 0 1/3*2
count or last | 5 1 3 1 | 1/3*3 0*2 / 0*3 1/2*2
window or last | 3 1 2 2 | 1/2*2 0 / 1/2*2 1 / 0*2 1
window or short | 3 1 2 2 | 1/2*2 0 / 1/2*2 1
window or short | 2 1 3 2 | 1/2*2 / 1/2*2
by samples | 9 2 3 2 | 1/6*6 0*3 / 1/6*4 0*2 1/3*3
by samples or end | 7 2 2 1 | 1/4*4 0*3 / 0*4 1/3*3
by samples or end | 7 1 3 2 | 1/3*3 0*4 / 0*3 1/3*3 0 / 0*6 1 / 1/3*3 0*4 / 0*3 1/3*3 0 / 0*6 1
by samples or end | 5 1 3 1 | 1/3*3 0*2 / 0*3 1/2*2
late | 4 1 2 2 | 1/2*2 0*2 / 1/2*4
late count | 3 1 2 2 | 1/2*2 0 / 1/2 0 1
split | 5 1 3 1 | 1/3*3 0*2 / 0*3 1/2 0 / 0*4 1/2
count or end | 3 1 2 2 | 1/2*2 0 / 0*2 1 / 1/2 0*2 / 0 1/2 1
epoch | 7 1 2 1 | 1/2*6 1
epoch | 2 1 1 1 | 1*2
epoch | 65 1 2 1 | 1/2*64 1
epoch, if accumulating | 7 1 2 1 | 1/2*6 1
epoch, if accumulating | 2 1 1 1 | 1 0 / 0 1
k, then k + 1 | 7 1 2 1 | 1/2*2 0*5 / 0*2 1/2*3 0*2 / 0*5 1/2 1
k + 1, then k | 6 1 2 2 | 1/2*3 0*3 / 0*3 1/2*2 0 / 1/2*3 0*2 1/2 / 0*3 1/2*2 0
k + 1, then k, or end | 6 1 2 1 | 1/2*3 0*3 / 0*3 1/2*2 0 / 0*5 1/2
k - 1, then k | 5 1 3 2 | 1/3*2 0*3 / 0*2 1/3 1/2*2 / 1/3*2 0*3 / 0*2 1/3 1/2*2
all but the last | 5 1 3 1 | 1/3 0*4 / 0 1/3 0*3 / 0*2 1/3 1/2 0 / 0*4 1/2
overfull last | 7 1 3 1 | 1/3*3 0*4 / 0*3 1/3*3 1
overfull last | 8 1 3 1 | 1/3*3 0*5 / 0*3 1/3*3 1/2*2
k + 1 or end | 16 1 14 2 | 1/14*14 1/2 0 / 0*15 1/2 / 1/14*14 1/2 0 / 0*15 1/2
k + 1 or end | 5 1 1 1 | 1*2 0*3 / 0*2 1*2 0 / 0*4 1
k + 1 | 16 1 14 2 | 1/14*14 1/2 0 / 1/14*14 1/2*2
k + 1 | 5 1 1 1 | 1*2 0*3 / 0*2 1*2 0
k + 1, counted | 16 1 14 2 | 1/14*14 1/2 0 / 1/14*14 0 1/2
k + 1, counted | 5 1 1 1 | 1*2 0*3 / 0*2 1*2 0
k + 1, counted, or last | 16 1 14 2 | 1/14*14 1/2 0 / 1/14*14 0 1/2 / 0*14 1/2*2
k + 1, counted, or last | 5 1 1 1 | 1*2 0*3 / 0*2 1*2 0 / 0*4 1
k - 1 or end | 14 1 14 2 | 1/14*13 0 / 0*13 1/14 / 1/14*13 0 / 0*13 1/14
k - 1 or end | 3 1 1 1 | 1 0*2 / 0 1 0 / 0*2 1
k - 1 | 14 1 14 2 | 1/14*13 0 / 1/14*14
k - 1 | 3 1 1 1 | 1 0*2 / 0 1 0 / 0*2 1
k - 1, counted | 14 1 14 2 | 1/14*13 0 / 1/14*12 0 1/14
k - 1, counted | 3 1 1 1 | 1 0*2 / 0 1 0 / 0*2 1
k - 1, counted, or last | 14 1 14 2 | 1/14*13 0 / 1/14*12 0 1/14 / 0*12 1/14*2
k - 1, counted, or last | 3 1 1 1 | 1 0*2 / 0 1 0 / 0*2 1
k + 1 unless k is 1 or end | 16 1 14 2 | 1/14*14 1/2 0 / 0*15 1/2 / 1/14*14 1/2 0 / 0*15 1/2
k + 1 unless k is 1 or end | 3 1 1 1 | 1 0*2 / 0 1 0 / 0*2 1
k + 1 unless k is 1 | 16 1 14 2 | 1/14*14 1/2 0 / 1/14*14 1/2*2
k + 1 unless k is 1 | 3 1 1 1 | 1 0*2 / 0 1 0 / 0*2 1
k + 1 unless k is 1, counted | 16 1 14 2 | 1/14*14 1/2 0 / 1/14*14 0 1/2
k + 1 unless k is 1, counted | 3 1 1 1 | 1 0*2 / 0 1 0 / 0*2 1
k + 1 unless k is 1, counted, or last | 16 1 14 2 | 1/14*14 1/2 0 / 1/14*14 0 1/2 / 0*14 1/2*2
k + 1 unless k is 1, counted, or last | 3 1 1 1 | 1 0*2 / 0 1 0 / 0*2 1
2 * k or end | 29 1 14 2 | 1/14*28 0 / 0*28 1 / 1/14*28 0 / 0*28 1
2 * k or end | 3 1 1 1 | 1*2 0 / 0*2 1
2 * k | 29 1 14 2 | 1/14*28 0 / 1/14*28 1
2 * k | 3 1 1 1 | 1*2 0
2 * k, counted | 29 1 14 2 | 1/14*28 0 / 1/14*27 0 1
2 * k, counted | 3 1 1 1 | 1*2 0
2 * k, counted, or last | 29 1 14 2 | 1/14*28 0 / 1/14*27 0 1 / 0*27 1/14 1
2 * k, counted, or last | 3 1 1 1 | 1*2 0 / 0*2 1
2 * k unless k is 1 or end | 29 1 14 2 | 1/14*28 0 / 0*28 1 / 1/14*28 0 / 0*28 1
2 * k unless k is 1 or end | 3 1 1 1 | 1 0*2 / 0 1 0 / 0*2 1
2 * k unless k is 1 | 29 1 14 2 | 1/14*28 0 / 1/14*28 1
2 * k unless k is 1 | 3 1 1 1 | 1 0*2 / 0 1 0 / 0*2 1
2 * k unless k is 1, counted | 29 1 14 2 | 1/14*28 0 / 1/14*27 0 1
2 * k unless k is 1, counted | 3 1 1 1 | 1 0*2 / 0 1 0 / 0*2 1
2 * k unless k is 1, counted, or last | 29 1 14 2 | 1/14*28 0 / 1/14*27 0 1 / 0*27 1/14 1
2 * k unless k is 1, counted, or last | 3 1 1 1 | 1 0*2 / 0 1 0 / 0*2 1
k // 2 or end | 8 1 14 2 | 1/8*7 0 / 0*7 1/8 / 1/8*7 0 / 0*7 1/8
k // 2 or end | 3 1 1 1 | 1 0*2 / 0 1 0 / 0*2 1
k // 2 | 8 1 14 2 | 1/8*7 0 / 1/8*8
k // 2 | 3 1 1 1 | 1 0*2 / 0 1 0 / 0*2 1
k // 2, counted | 8 1 14 2 | 1/8*7 0 / 1/8*6 0 1/8
k // 2, counted | 3 1 1 1 | 1 0*2 / 0 1 0 / 0*2 1
k // 2, counted, or last | 8 1 14 2 | 1/8*7 0 / 1/8*6 0 1/8 / 0*6 1/8*2
k // 2, counted, or last | 3 1 1 1 | 1 0*2 / 0 1 0 / 0*2 1
"""

RESETS = """
after step | 3 1 2 2 | 1/2*2 0 / 0*2 1 / 1/2*2 0 / 0*2 1
window start | 3 1 2 2 | 1/2*2 0 / 0*2 1 / 1/2*2 0 / 0*2 1
epoch start too | 3 1 2 2 | 1/2*2 0 / 0*2 1 / 1/2*2 0 / 0*2 1
epoch's list | 3 1 2 2 | 1/2*2 0 / 0*2 1 / 1/2*2 0 / 0*2 1
window end | 3 1 2 2 | 1/2*2 0 / 0*2 1 / 1/2*2 1 / 0*2 1
never | 3 1 2 2 | 1/2*2 0 / 1/2*2 1 / 1*3 / 1*2 2
epoch start | 3 1 2 2 | 1/2*2 0 / 1/2*2 1 / 1/2*2 0 / 1/2*2 1
every | 3 1 3 2 | 0*2 1/3 / 0*2 1/3
before step | 3 1 2 2 | 0*3 / 0*3 / 0*3 / 0*3
after first | 3 1 2 2 | 0 1/2 0 / 0 1/2 0
first only | 3 1 2 2 | 1/2 0*2 / 0*2 1 / 1/2 0*2 / 0*2 1
"""

# With windows that run on into the next epoch, and means that are divided by the micro-batches since the last step.
CARRIED = """
after step | 3 1 2 2 | 1/2*2 0 / 1/3*3
window start | 5 1 2 2 | 1/2*2 0*3 / 0*2 1/2*2 0 / 1/3*2 0*3 / 0*2 1/2*2 0
epoch start too | 5 1 2 2 | 1/2*2 0*3 / 0*2 1/2*2 0 / 1/3*2 0*3 / 0*2 1/2*2 0
epoch's list | 3 1 2 2 | 1/2*2 0 / 1/2*2 0
window end | 3 1 2 2 | 1/2*2 0 / 1/3*3
never | 3 1 2 2 | 1/2*2 0 / 1/2*2 1/3
epoch start | 5 1 2 2 | 1/2*2 0*3 / 1/4*2 1/2*2 0 / 1/3*2 0*3 / 1/6*2 1/2*2 0
every | 3 1 2 2 | 0 1/2 0 / 0 1/3 0
before step | 3 1 2 2 | 0*3 / 0*3
after first | 3 1 2 2 | 0 1/2 0 / 0 1/3 0
first only | 5 1 2 2 | 1/2 0*4 / 0*2 1/2 0*2 / 1/3 0*4 / 0*2 1/2 0*2
"""

# With a step at every micro-batch.
OFTEN = """
after step | 3 1 2 2 | 1/2 0*2 / 0 1/2 0 / 0*2 1 / 1/2 0*2 / 0 1/2 0 / 0*2 1
window start | 3 1 2 2 | 1/2 0*2 / 1/2*2 0 / 0*2 1 / 1/2 0*2 / 1/2*2 0 / 0*2 1
window end | 3 1 2 2 | 1/2 0*2 / 1/2*2 0 / 0*2 1 / 1/2 0 1 / 1/2*2 1 / 0*2 1
epoch start too | 3 1 2 2 | 1/2 0*2 / 0 1/2 0 / 0*2 1 / 1/2 0*2 / 0 1/2 0 / 0*2 1
"""

# Samples hold 1, 2, 4, 3, 1, 2, 3 and 4 tokens from here on.
SCALES = """
share | 3 2 3 1 | 1/7*3
share | 5 1 2 1 | 1/3*2 0*3 / 0*2 1/7*2 0 / 0*4 1
sum, items | 3 2 3 1 | 1/7*3
1/k | 7 2 3 1 | 1/9*2 1/21*2 1/9*2 0 / 0*6 1/9
1/k | 2 2 1 1 | 1/3*2
1/count | 4 3 4 1 | 1/14*3 1/6
1/count | 2 1 1 1 | 1 0 / 0 1/2
mean, count | 4 3 4 1 | 1/14*3 1/6
mean, count | 2 1 1 1 | 1 0 / 0 1/2
1/k, share in tails | 5 1 3 1 | 1/3 1/6 1/12 0*2 / 0*3 1/4*2
1 | 5 2 3 1 | 1/3*2 1/7*2 1
mean, k | 7 2 3 1 | 1/9*2 1/21*2 1/9*2 0 / 0*6 1/9
mean, k | 2 2 1 1 | 1/3*2
sum | 2 2 2 1 | 1*2
sum/N | 3 2 2 1 | 1/4*3
len/N | 2 3 1 1 | 2/9*2
sum, N | 3 2 2 1 | 1/4*3
sum, k | 2 2 4 1 | 1/4*2
len/len | 3 2 2 1 | 2/9*2 1/12
len | 2 2 1 1 | 2/3*2
len, items | 3 2 2 1 | 2/9*2 1/12
len, N | 2 3 1 1 | 2/9*2
sum/len/count | 3 2 3 1 | 1/4*2 1/2
sum/len/k | 2 3 2 1 | 1/4*2
sum/len | 3 2 2 1 | 1/2*2 1
sum/sequences | 7 2 2 1 | 1/4*4 0*3 / 0*4 1/3*3
sum, sequences | 7 2 2 1 | 1/4*4 0*3 / 0*4 1/3*3
1/k/k | 3 2 3 1 | 1/27*2 1/36
1/k/k | 2 2 1 1 | 1/3*2
1/count/k | 7 3 2 1 | 1/28*3 1/24*3 0 / 0*6 1/6
1/count/k | 3 2 3 1 | 1/18*2 1/24
1/count/count | 3 1 2 1 | 1/4 1/8 0 / 0*2 1/4
share/k | 3 2 3 1 | 1/21*3
share/k | 2 1 2 1 | 1/6*2
share/count | 5 1 4 1 | 1/40*4 0 / 0*4 1
len/len/k | 3 2 2 1 | 1/9*2 1/24
sum/N/k | 2 2 2 1 | 1/8*2
share*k | 2 1 4 1 | 4/3*2
share*count | 2 1 3 1 | 2/3*2
sum/b | 3 2 3 1 | 1/2*3
1/place | 2 1 2 1 | 1 1/4
1/(count + 1) | 3 1 2 1 | 1/3 1/6 0 / 0*2 1/8
1/(count - 1) | 4 1 3 1 | 1/2 1/4 1/8 0 / 0*3 1/3
1/length | 7 1 4 1 | 1/7 1/14 1/28 1/21 0*3 / 0*4 1/7 1/14 1/21
share of epoch | 2 1 1 1 | 1/2 0 / 0 1/2
1/(k + 1) | 2 1 4 1 | 1/5 1/10
1/(k + 1) | 2 2 1 1 | 1/6*2
share/(k + 1) | 2 1 2 1 | 1/9*2
share/(k + 1) | 2 2 1 1 | 1/6*2
1/count/(k + 1) | 3 1 4 1 | 1/15 1/30 1/60
1/count/(k + 1) | 2 2 1 1 | 1/6*2
1/k/(k + 1) | 2 2 3 1 | 1/36*2
1/k/(k + 1) | 2 2 1 1 | 1/6*2
1/(k - 1) | 4 1 3 1 | 1/2 1/4 1/8 0 / 0*3 1/6
1/(k - 1) | 2 1 2 1 | 1 1/2
share/(k - 1) | 2 1 4 1 | 1/9*2
share/(k - 1) | 2 1 2 1 | 1/3*2
1/count/(k - 1) | 4 1 3 1 | 1/6 1/12 1/24 0 / 0*3 1/6
1/count/(k - 1) | 2 2 2 1 | 1/3*2
1/k/(k - 1) | 2 2 4 1 | 1/36*2
1/k/(k - 1) | 2 2 2 1 | 1/6*2
1/(b * k) | 4 3 3 1 | 1/63*3 1/27
1/(b * k) | 2 2 1 1 | 1/6*2
share/(b * k) | 4 3 3 1 | 1/90*4
1/count/(b * k) | 7 3 4 1 | 1/252*3 1/216*3 1/108
1/k/(b * k) | 2 3 3 1 | 1/81*2
1/b | 7 2 4 1 | 1/6*2 1/14*2 1/6*3
1/b | 2 1 2 1 | 1 1/2
share/b | 5 2 4 1 | 1/22*5
share/b | 2 1 2 1 | 1/3*2
1/count/b | 5 2 4 1 | 1/18*2 1/42*2 1/6
1/count/b | 2 3 1 1 | 1/9*2
1/k/b | 4 3 3 1 | 1/63*3 1/27
1/k/b | 2 2 1 1 | 1/6*2
each /count | 2 1 3 1 | 1/4*2
each /k | 2 1 3 1 | 1/9 1/6
share, each /k | 2 1 3 1 | 1/27 1/9
share, each /2 | 2 1 3 1 | 1/12 1/6
1/k, each /k | 2 1 2 1 | 1/8*2
"""

# With windows that run on into the next epoch.
DIVIDED = """
sum, items | 5 2 2 2 | 1/10*4 0 / 1/11*5
mean, count | 5 2 2 2 | 1/6*2 1/14*2 0 / 1/9*2 1/21*2 1/3
mean, k | 5 2 2 2 | 1/6*2 1/14*2 0 / 1/6*2 1/14*2 1/2
sum, N | 5 2 2 2 | 1/4*4 0 / 1/4*5
sum, k | 5 2 2 2 | 1/2*4 0 / 1/2*5
len, items | 5 2 2 2 | 1/6*2 1/14*2 0 / 2/15*2 2/35*2 1/5
len, N | 5 2 2 2 | 1/6*2 1/14*2 0 / 1/6*2 1/14*2 1/4
sum, sequences | 5 2 2 2 | 1/4*4 0 / 1/5*5
"""

RANKS = """
global | 3 2 1 1 2 | 1/7*3
global | 7 1 2 1 2 | 1/10*4 0*3 / 0*4 1/6*3
local | 3 2 1 1 2 | 1/6*2 1/8
local | 7 1 2 1 2 | 1/10*4 0*3 / 0*4 1/8 1/4 1/8
global, summed | 3 2 1 1 2 | 2/7*3
global, averaged | 3 2 1 1 2 | 1/14*3
local, summed | 3 2 1 1 2 | 1/3*2 1/4
local, averaged | 3 2 1 1 2 | 1/12*2 1/16
"""

LOSSES = """
mean | 3 2 2 1 | 1/7*3
mean of sequences | 3 2 2 1 | 3/14 3/28 1/7
"""

NUMBERS = (2, 3, 4, 5, 6, 8, 10, 16, 32, 64)  # that people write in k's place


def _numbered_steps() -> str:
    lines = [
        "2 or end | 3 1 7 2 | 1/3*2 0 / 0*2 1/3 / 1/3*2 0 / 0*2 1/3",
        "2 | 3 1 7 2 | 1/3*2 0 / 1/3*3",
        "2, counted | 3 1 7 2 | 1/3*2 0 / 1/3 0 1/3 / 0 1/3*2",
        "2, counted | 3 1 7 1 | 1/3*2 0",
        "2, counted, or last | 3 1 7 2 | 1/3*2 0 / 1/3 0 1/3 / 0 1/3*2",
        "2, counted, or last | 3 1 7 1 | 1/3*2 0 / 0*2 1/3",
    ]
    for m in NUMBERS[1:]:
        size = f"{m + 1} 1 1 2"  # an epoch is one micro-batch longer than the window
        counted = f"1*{m} 0 / 1*{m - 1} 0 1"
        lines += [
            f"{m} or end | {size} | 1*{m} 0 / 0*{m} 1 / 1*{m} 0 / 0*{m} 1",
            f"{m} | {size} | 1*{m} 0 / 1*{m + 1}",
            f"{m}, counted | {size} | {counted}",
            f"{m}, counted, or last | {size} | {counted} / 0*{m - 1} 1*2",
        ]
    return "\n".join(lines)


def _numbered_scales() -> str:
    lines = []
    for m in NUMBERS:
        lines += [
            f"1/{m} | 3 1 12 1 | 1/{m} 1/{2 * m} 1/{4 * m}",
            f"1/{m} | 2 1 7 1 | 1/{m} 1/{2 * m}",
            f"share/{m} | 3 1 12 1 | 1/{7 * m}*3",
            f"share/{m} | 2 1 7 1 | 1/{3 * m}*2",
            f"1/count/{m} | 3 1 12 1 | 1/{3 * m} 1/{6 * m} 1/{12 * m}",
            f"1/count/{m} | 2 1 7 1 | 1/{2 * m} 1/{4 * m}",
            f"1/k/{m} | 3 1 12 1 | 1/{12 * m} 1/{24 * m} 1/{48 * m}",
            f"1/k/{m} | 2 1 7 1 | 1/{7 * m} 1/{14 * m}",
        ]
    return "\n".join(lines)


def literals() -> Iterator[tuple[str, str, Program, Shape, Units, str]]:
    for slot, base, tokens, text in (
        ("visit", Program(), False, VISITS),
        ("step", Program(), False, STEPS + _numbered_steps()),
        ("reset", Program(), False, RESETS),
        ("reset", Program(step="window", scale="mean, count"), False, CARRIED),
        ("reset", Program(step="every"), False, OFTEN),
        ("scale", Program(), True, SCALES + _numbered_scales()),
        ("scale", Program(step="window"), True, DIVIDED),
        ("ranks", Program(), True, RANKS),
        ("loss", Program(), True, LOSSES),
    ):
        for line in text.strip().splitlines():
            name, sizes, matrix = line.split(" | ")
            shape = Shape(*map(int, sizes.split()))
            units = Units(TOKENS[: shape.n] if tokens else (1,) * shape.n)
            yield slot, name, replace(base, **{slot: name}), shape, units, matrix


LITERALS = list(literals())


@pytest.mark.parametrize(
    ("program", "shape", "units", "matrix"),
    [each[2:] for each in LITERALS],
    ids=[f"{slot} {name}" for slot, name, *_ in LITERALS],
)
def test_a_rule_does_what_its_line_says(program: Program, shape: Shape, units: Units, matrix: str) -> None:
    assert simulate(program, shape, units) == rows(matrix), str(program)


@pytest.mark.parametrize("slot", [slot for slot in TABLES if slot not in ("clip", "schedule")])
def test_all_rules_are_written_out(slot: str) -> None:
    assert {name for where, name, *_ in LITERALS if where == slot} == set(TABLES[slot])


RULES = [(slot, rule) for slot, table in TABLES.items() for rule in table.values()]
WRONG = [(slot, rule) for slot, rule in RULES if rule.law]


def named(value: str | Rule) -> str:
    return value if isinstance(value, str) else value.name


@pytest.mark.parametrize(("slot", "rule"), RULES, ids=named)
def test_following_toward_ends_at_a_rule_that_breaks_no_law(slot: str, rule: Rule) -> None:
    program, seen = Program(**{slot: rule.name}), [rule.name]
    while program.rule(slot).law:
        program = program.toward(slot)
        assert program.rule(slot).name not in seen
        seen.append(program.rule(slot).name)
    assert not program.wrong


@pytest.mark.parametrize(("slot", "rule"), RULES, ids=named)
def test_a_law_is_one_that_is_told(slot: str, rule: Rule) -> None:
    assert rule.law in (*LAWS, MEANS, "")
    assert rule.law or not rule.toward  # a rule that breaks no law leads nowhere
    assert rule.code
    assert TABLES[slot][rule.name] is rule


@pytest.mark.parametrize("slot", TABLES)
def test_the_right_rules_break_no_law(slot: str) -> None:
    assert not TABLES[slot][RIGHT[slot]].law


SMALL = [Shape(n, b, k, 2) for n in (5, 7) for b in (1, 2) for k in (1, 2, 3, 4)]


@pytest.mark.parametrize(
    ("slot", "rule"), [(slot, r) for slot, r in WRONG if slot not in ("clip", "schedule")], ids=named
)
def test_a_wrong_rule_shows_at_some_small_size(slot: str, rule: Rule) -> None:
    program = Program(**{slot: rule.name})
    there = program.toward(slot)
    ranks = 2 if slot == "ranks" else 1
    shapes = [shape._replace(n=8, ranks=ranks) if ranks > 1 else shape for shape in SMALL]
    assert any(
        simulate(program, shape, units) != simulate(there, shape, units)
        for shape in shapes
        for units in (Units((1,) * shape.n), Units(TOKENS[: shape.n]))
    )
