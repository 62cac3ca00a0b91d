"""Results larger than memory: Parquet files in a folder or a bucket, all of them or none."""

import uuid
from collections.abc import Iterable

import pyarrow as pa
from pyarrow import fs, parquet

from extensions.errors import ConfigurationError

# Uncompressed bytes after which a file is closed and the next begun.
FILE_BYTES = 256 * 1024 * 1024


def export(pieces: Iterable[pa.Table], location: str, file_bytes: int = FILE_BYTES) -> list[str]:
    """Write tables of one schema, at least one, to a new folder under ``location``.

    ``location``: a path or a URI that Arrow knows (``file:///…``, ``s3://…``, ``gs://…``).
    Returns the files' URIs, in the rows' order. One piece is in memory at a time.

    Raises:
        ConfigurationError: the location cannot be written to; what had been written is removed.
    """
    name = f"{location.rstrip('/')}/{uuid.uuid4()}"
    try:
        system, folder = fs.FileSystem.from_uri(name)
        system.create_dir(folder, recursive=True)
    except (pa.ArrowInvalid, OSError) as error:
        raise ConfigurationError(
            f"Cannot write to the staging location {location} ({error}): set staging_location "
            "of the offline store in feature_store.yaml to a folder or a bucket's URI."
        ) from error
    files: list[str] = []
    writer: parquet.ParquetWriter | None = None
    written = 0
    try:
        for piece in pieces:
            if writer is None or written >= file_bytes:
                if writer is not None:
                    writer.close()
                part = f"part-{len(files):05}.parquet"
                writer = parquet.ParquetWriter(
                    f"{folder}/{part}", piece.schema, filesystem=system, compression="zstd"
                )
                files.append(f"{name}/{part}")
                written = 0
            writer.write_table(piece)
            written += piece.nbytes
        if writer is not None:
            writer.close()
    except BaseException:
        system.delete_dir(folder)
        raise
    return files
