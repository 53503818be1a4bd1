"""What tables say about a method, without torch: it is literals in the source (``names.built_in_info``)."""

from dataclasses import dataclass


@dataclass(frozen=True)
class MethodInfo:
    """What tables say about a method.

    ``published`` is its name in the table of reported values, None when nothing comparable was reported.  ``backbone``
    is used on real data sets when the user names none; "" says that the method has weights of its own and takes no
    backbone.  ``offline``: runs with nothing but what is embedded.
    """

    name: str
    title: str
    paper: str
    training_free: bool = True
    trained_on: str = "nothing beyond CLIP's own pre-training"
    backbone: str = "ViT-B-16-quickgelu/openai"
    published: str | None = None
    offline: bool = True
