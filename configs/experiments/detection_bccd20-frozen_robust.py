# Late and stock of detection_bccd20-frozen.py on perturbed and on corrupted images.
_base_ = './detection_bccd20-frozen.py'
measures = [
    'stock',
    'detection_calibration',
    dict(type='robust', epsilon='1/255', step_size='0.25/255', num_images=20),
    dict(type='corruptions', num_images=10),
]
