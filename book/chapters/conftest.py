"""nbval's kernels get the same environment as papermill's."""

import os

from gengap.book.chapters import KERNEL_ENVIRONMENT

os.environ.update(KERNEL_ENVIRONMENT)
