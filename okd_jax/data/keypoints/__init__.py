"""Data sets of keypoints: joints of figures in pictures."""
