"""A small SAM with random weights and all of its parts."""

import torch
import transformers

from ovss.methods.models.sam import Sam


def random_model(surer: float = 0.0) -> transformers.SamModel:
    """Sees 64 px.  ``surer`` is added to the IoU that it predicts of its masks."""
    vision = {"hidden_size": 16, "output_channels": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    vision |= {"image_size": 64, "patch_size": 16, "mlp_dim": 16, "num_pos_feats": 8, "global_attn_indexes": [0]}
    prompt = {"hidden_size": 16, "image_size": 64, "patch_size": 16, "mask_input_channels": 4}
    decoder = {"hidden_size": 16, "mlp_dim": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    decoder |= {"iou_head_hidden_dim": 16, "iou_head_depth": 2}
    config = transformers.SamConfig(vision_config=vision, prompt_encoder_config=prompt, mask_decoder_config=decoder)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = transformers.SamModel(config).eval()
    with torch.no_grad():
        model.mask_decoder.iou_prediction_head.proj_out.bias += surer
    return model


def random_sam(surer: float = 0.0) -> Sam:
    """The same as a method takes it."""
    return Sam(random_model(surer))
