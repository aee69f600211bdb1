"""The registry: every model by the name that ``--model`` takes. A new model is one file and one line here."""

from dist_fm.errors import UserError, nearest
from dist_fm.models.afm import AFM
from dist_fm.models.afn import AFN
from dist_fm.models.autoint import AutoInt
from dist_fm.models.base import Model, ModelConfig
from dist_fm.models.dcn import DCN
from dist_fm.models.dcnv2 import DCNv2
from dist_fm.models.deepfm import DeepFM
from dist_fm.models.ffm import FFM
from dist_fm.models.fibinet import FiBiNET
from dist_fm.models.fm import FM
from dist_fm.models.fnfm import FNFM
from dist_fm.models.fnn import FNN
from dist_fm.models.hofm import HOFM
from dist_fm.models.lr import LR
from dist_fm.models.ncf import NCF
from dist_fm.models.nfm import NFM
from dist_fm.models.onn import ONN
from dist_fm.models.pnn import PNN
from dist_fm.models.wide_deep import WideDeep
from dist_fm.models.xdeepfm import XDeepFM

MODELS: dict[str, type[Model]] = {
    "lr": LR,
    "fm": FM,
    "ffm": FFM,
    "fnn": FNN,
    "wide_deep": WideDeep,
    "afm": AFM,
    "nfm": NFM,
    "ncf": NCF,
    "fnfm": FNFM,
    "deepfm": DeepFM,
    "xdeepfm": XDeepFM,
    "dcn": DCN,
    "dcnv2": DCNv2,
    "autoint": AutoInt,
    "pnn": PNN,
    "fibinet": FiBiNET,
    "onn": ONN,
    "afn": AFN,
    "hofm": HOFM,
}
ALIASES = {"wd": "wide_deep"}

__all__ = ["ALIASES", "MODELS", "Model", "ModelConfig", "get_model"]


def get_model(name: str) -> type[Model]:
    """The model class registered as ``name`` or an alias; a ``UserError`` (a ``ValueError``) for an unknown name."""
    name = ALIASES.get(name, name)
    if name not in MODELS:
        raise UserError(f"unknown model {name!r}: {nearest(name, [*MODELS, *ALIASES])}")
    return MODELS[name]
