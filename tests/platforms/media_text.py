"""The media platform with text ids: the repository whose entities and columns are texts."""

from functools import partial

from tests.platforms.media import media
from tests.text_ids import copy_with_text_ids
from tests.versions.repositories import REPO_ROOT

# Look-alikes, and what a text protocol might trip over.
USERS = ["v-81", "V-81", "v-081", "E\u0301", "É", "81"]
ITEMS = ["n-7", "N-7", "n-07", "É", "E\u0301", 'q"{},\\', "7", "x" * 40]

PLATFORM = media(partial(copy_with_text_ids, REPO_ROOT), USERS, ITEMS)
