"""SAHLoRA: haemorrhage segmentation on head CT with low-rank adapters of a multi-view Unet. Research use only, not a medical device."""

__version__ = "0.1.0"
