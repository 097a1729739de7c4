# The networks of segmentation_camvid15.py on perturbed and on corrupted images: run with the
# --work-dir of that experiment, whose checkpoints are measured again.
_base_ = './segmentation_camvid15.py'
measures = [
    'stock',
    dict(type='robust', epsilon='1/255', step_size='0.25/255', num_images=25),
    dict(type='corruptions', num_images=15),
]
