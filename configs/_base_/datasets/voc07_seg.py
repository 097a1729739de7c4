# Pascal VOC2007 segmentation, trainval -> test (422 and 210 images). It has VOC2012's classes and
# folders, so mmseg's PascalVOCDataset reads it.
_base_ = './voc12_seg.py'

data_root = 'data/VOCdevkit/VOC2007'
train_dataloader = dict(
    dataset=dict(data_root=data_root, ann_file='ImageSets/Segmentation/trainval.txt')
)
val_dataloader = dict(dataset=dict(data_root=data_root, ann_file='ImageSets/Segmentation/test.txt'))
test_dataloader = val_dataloader
