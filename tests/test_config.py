"""Configuration: flags over file over defaults, strictly, with errors that name the nearest right key."""

import dataclasses
import tomllib

import pytest

from dist_fm.config import SECTION_TYPES, build_config
from dist_fm.errors import UserError
from dist_fm.flags import COUNTERPARTS, SHORT_FLAGS, help_text, load_config, parse_flags
from dist_fm.models import MODELS, get_model


def config(*arguments, file=None):
    flags, own = parse_flags(arguments, own=("config",))
    return load_config(own.get("config", file), flags)


def test_every_short_flag_names_an_existing_key():
    for flag, path in SHORT_FLAGS.items():
        section, key = path.split(".")
        if section == "model":
            assert key == "name" or any(key in get_model(m).Config.__dataclass_fields__ for m in MODELS)
        else:
            assert key in {field.name for field in dataclasses.fields(SECTION_TYPES[section])}, flag


def test_flags_override_the_file_and_the_file_the_defaults(tmp_path):
    file = tmp_path / "c.toml"
    file.write_text('[model]\nname = "deepfm"\nmlp_dims = [8]\n[optimizer]\nlr = 0.5\n[train]\nepochs = 7\n')
    found = config(f"--config={file}", "--optimizer.lr=0.25", "--embed-dim", "4", "--no-eval", "--model.dropout=0")
    assert (found.optimizer.lr, found.train.epochs, found.train.batch_size) == (0.25, 7, 2048)
    assert found.model.mlp_dims == (8,) and found.model.embed_dim == 4 and found.model.dropout == 0.0
    assert found.train.no_eval is True and found.train.monitor == "auc"


@pytest.mark.parametrize("model", MODELS)
def test_a_stored_configuration_reads_back_as_it_was(model):
    found = config(f"--model={model}", '--data=a "b" \\ c', "--lr=3e-4", "--optimizer.b1=0.8")
    again = build_config(tomllib.loads(found.to_toml()), "stored")
    assert again == found


def test_alias():
    assert config("--model=wd").model_name == "wide_deep"


def test_mse_is_monitored_by_rmse():
    assert config("--model=fm", "--loss=mse").train.monitor == "rmse"


@pytest.mark.parametrize(
    "arguments, words",
    [
        (["--model=deepfmm"], ["deepfmm", "deepfm"]),
        ([], ["--model=NAME"]),
        (["--model=fm", "--epoch=3"], ["--epochs"]),
        (["--model=fm", "--batchsize=3"], ["--batchsize", "--batch_size"]),
        (["--model=fm", "--train.lr=3"], ["--optimizer.lr"]),
        (["--model=fm", "--train.epoch=3"], ["train.epoch", "train.epochs"]),
        (["--model=fm", "--model.mlp_dims=3"], ["mlp_dims", "FM"]),
        (["--model=fm", "--epochs=three"], ["--epochs=three", "whole number"]),
        (["--model=fm", "--epochs=0"], ["--epochs=0", "at least 1"]),
        (["--model=fm", "--lr=0"], ["--lr=0", "above 0"]),
        (["--model=fm", "--data.unseen_rate=1.5"], ["unseen_rate=1.5", "at most 1"]),
        (["--model=fm", "--loss=bec"], ["--loss=bec", "bce, mse", "bce"]),
        (["--model=fm", "--optimizer=adm"], ["adm", "adam"]),
        (["--model=fm", "--no_eval=maybe"], ["true or false"]),
        (["--model=fm", "--epochs"], ["--epochs needs a value"]),
        (["fm"], ["'fm'", "--name=value"]),
        (["--model=fm", "--config=/nowhere.toml"], ["/nowhere.toml", "no such file"]),
        (["--model=fm", "--loss=mse", "--train.monitor=auc"], ["monitor=auc", "rmse"]),
        (["--model=fm", "--train.monitor=rmse"], ["monitor=rmse", "auc, logloss, auc-logloss, ne, pr_auc, gauc, ndcg"]),
        (["--model=fm", "--train.monitor=ndgc"], ["ndgc", "ndcg"]),
        (["--model=fm", "--train.monitor=hr", "--train.top_k="], ["monitor=hr", "top_k is empty"]),
        (["--model=fm", "--train.top_k=5,0"], ["top_k=(5, 0)", "at least 1"]),
        (["--model=fm", "--model.init=torch"], ["init", "torchfm"]),
    ],
)
def test_bad_flags_are_named_with_what_is_allowed(arguments, words):
    with pytest.raises(UserError) as error:
        config(*arguments)
    for word in words:
        assert word in str(error.value)


@pytest.mark.parametrize("flag", ["learning_rate", "embed_size", "gpu_ids", "data_location", "model_name"])
def test_flags_of_other_trainers_are_refused_with_their_counterpart(flag):
    with pytest.raises(UserError, match=f"--{flag} is --{COUNTERPARTS[flag]} here"):
        config("--model=fm", f"--{flag}=1")


@pytest.mark.parametrize(
    "text, words",
    [
        ("[modle]\nname = 'fm'\n", ["[modle]", "model"]),
        ("[model]\nname = 'fm'\n[train]\nepocs = 3\n", ["epocs", "epochs"]),
        ("[model]\nname = 'fm'\n[train]\nepochs = '3'\n", ["train.epochs", "whole number"]),
        ("[model]\nname = 'fm'\n[train]\nepochs = 3.5\n", ["train.epochs", "whole number"]),
        ("[model]\nname = 'fm'\n[train]\nno_eval = 1\n", ["no_eval", "true or false"]),
        ("model = 'fm'\n", ["[model]"]),
        ("[model\n", ["TOML"]),
    ],
)
def test_bad_files_are_named_with_key(tmp_path, text, words):
    file = tmp_path / "c.toml"
    file.write_text(text)
    with pytest.raises(UserError) as error:
        config(f"--config={file}")
    for word in [str(file), *words]:
        assert word in str(error.value)


def test_help_names_every_key():
    text = help_text()
    for section, kind in SECTION_TYPES.items():
        if section != "model":
            for field in dataclasses.fields(kind):
                assert f"--{section}.{field.name}=" in text
