"""The exported folder on the Hugging Face Hub.

Whatever goes wrong between here and there comes as an exception of one of several libraries (which ones changed with
huggingface_hub 1.0): all of them are told as ours.
"""

from __future__ import annotations

from pathlib import Path

from huggingface_hub import HfApi, constants
from huggingface_hub.errors import LocalTokenNotFoundError

from jemb.core.errors import Failure, InputError
from jemb.model.load import first_line


def check_login() -> None:
    """Raises `InputError` where an upload would fail for want of a network or of a login; asks the Hub."""
    if constants.HF_HUB_OFFLINE:
        raise InputError("push_to_hub: HF_HUB_OFFLINE is set; take it away, or leave push_to_hub out")
    try:
        HfApi().whoami()
    except LocalTokenNotFoundError:
        raise InputError("push_to_hub: not logged in; run `hf auth login`, or set HF_TOKEN") from None
    except Exception as error:
        raise InputError(
            f"push_to_hub: {constants.ENDPOINT} did not let you in ({first_line(error)}); run `hf auth login` or set "
            "HF_TOKEN, and check the network"
        ) from error


def push(folder: Path, repository: str, *, private: bool) -> str:
    """Upload all of `folder` as one commit to the model repository `USER/NAME`; returns its address.

    Raises `Failure` where the Hub refuses or cannot be reached; the folder stays as it is.
    """
    hub = HfApi()
    try:
        address = hub.create_repo(repository, private=private or None, exist_ok=True)
        hub.upload_folder(repo_id=repository, folder_path=folder, commit_message="Model exported by jemb")
    except Exception as error:
        raise Failure(
            f"push_to_hub={repository}: {first_line(error)}. The folder {folder} is whole; when that is mended: "
            f"hf upload {repository} {folder}"
        ) from error
    return str(address)
