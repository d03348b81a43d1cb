"""The only rooms where TensorFlow may be imported; only `jobs/train.py` leads here, and late."""

import os

from lib.chatter import without_greetings

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

with without_greetings():  # they come with the first import
    import tensorflow

tensorflow.get_logger().setLevel("ERROR")  # it warns of every new model that is one of many
