"""Raw logs for tests, and builds of them: a described CSV with every kind of field, ratings, the ele.me format."""

import random

import numpy as np

from data_tools.build import build
from data_tools.formats.eleme import COLUMNS
from data_tools.plan import BuildOptions

ROWS = """click,user,tags,shop,shops,price,prices,age,when
1,u1,a|b,s1,s2;s1,2.0,1;3,20,0
0,u2,b,s2,,4.0,,30,3600
1,u1,,s1,s1;s1;s2,,5,40,345600
0,u3,a|b|c|d,s3,s9,6.0,2;x,,86400
"""
SCHEMA = """
label = "click"
timestamp = "when"
name = "shop"
[[field]]
name = "user"
role = "user"
[[field]]
name = "tags"
split = "|"
max = 3
pool = "mean"
[[field]]
name = "shop"
[[field]]
name = "shops"
split = ";"
max = 2
keep = "last"
shares = "shop"
[[field]]
name = "price"
kind = "numeric"
scale = "standard"
fill = 1.0
missing = true
[[field]]
name = "prices"
kind = "numeric"
split = ";"
reduce = "sum"
log = true
[[field]]
name = "age"
kind = "binned"
edges = [25.0, 35.0]
[[field]]
name = "hour"
kind = "time"
column = "when"
part = "hour"
[[field]]
name = "weekend"
kind = "time"
column = "when"
part = "weekend"
[[field]]
name = "who"
kind = "hash"
column = "user"
buckets = 50
seed = 3
[[field]]
name = "pair"
kind = "cross"
columns = ["user", "shop"]
buckets = 1000
"""


def eleme_rows(count, seed=0, longest=60):
    rng = np.random.default_rng(seed)
    numbers = {"gender", "avg_price", "is_supervip", "ctr_30", "ord_30", "total_amt_30", "hours"}
    cell = lambda name: (
        str(rng.integers(0, 9)) if name in numbers or name.startswith("rank") else f"v{rng.integers(99)}"
    )
    entry = lambda name: str(rng.integers(0, 9)) if name in ("price_list", "hours_list") else f"v{rng.integers(99)}"

    def value(name):
        if name == "clicked":
            return str(rng.integers(0, 2))
        if name.endswith("_list"):
            return ";".join(entry(name) for _ in range(rng.integers(0, longest)))
        return cell(name) if rng.random() < 0.9 else ""

    return "".join(",".join(value(name) for name in COLUMNS) + "\n" for _ in range(count))


def draw_ratings(count=2000):
    """Ratings with repeated and equal timestamps, as rows of strings."""
    rng = random.Random(7)
    return [
        (f"u{rng.randint(1, 60)}", f"i{int(rng.paretovariate(0.7))}", rng.choice("12345"), str(rng.randint(1, 900)))
        for _ in range(count)
    ]


def quiet(message):
    """Takes what ``build`` says."""


def make(path, output, **options):
    """The manifest of a data set built of one file of ratings, unless ``options`` say otherwise."""
    given = {"format": "movielens-1m", "inputs": (str(path),), "block_rows": 256, **options}
    return build(BuildOptions(output=str(output), **given), quiet)
