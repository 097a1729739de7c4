# A-FAN on EfficientNet-B0, ImageNet, with batches of 256: Table 4.
_base_ = './afan_efficientnet-b0_8xb64-90e_in1k.py'

train_dataloader = dict(batch_size=128)
