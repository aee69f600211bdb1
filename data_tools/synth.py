KINDS = ("movielens", "criteo")


def synth(kind, rows, output, seed):
    raise NotImplementedError
