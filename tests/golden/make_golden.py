"""Makes golden.json: messages of the published OpenMSIStream, for files that this script makes itself.

Run by hand in a virtual environment that holds OpenMSIStream (never in the tests' own):

    python -m venv golden-venv && golden-venv/bin/pip install openmsistream==1.8.8
    golden-venv/bin/python tests/golden/make_golden.py

It writes the files of `FILES`, lets OpenMSIStream's own `UploadDataFile` cut them into chunks and its own serializer
pack each chunk, and notes key and value: short first and last values of a file whole, all values as SHA-256.
The content of a file is `content(size)`, so nothing but golden.json has to be kept.
"""

import hashlib
import importlib.metadata
import json
import os
import pathlib
import queue
import tempfile

HERE = pathlib.Path(__file__).parent
NOTED_WHOLE = 400

# path, bytes, bytes of a chunk, text to append to the stem, modification time
FILES = [
    ("root.dat", 1, 16, "", 1234567890.5),
    ("run 07/raw/scan_001.dat", 300, 128, "", 1700000000.25),
    ("run 07/échantillon α.csv", 127, 1024, "", 1700000001.0),
    ("no_suffix", 128, 128, "", 1699999999.999),
    (".hidden", 129, 128, "", 1700000000.0),
    ("two.dots.txt", 256, 200, "_skimmed", 1700000002.125),
    ("a/b/c/d/e/deep.bin", 2049, 1024, "", 1.5),
    ("sizes/bin16.bin", 65535, 65536, "", 1700000003.0),
    ("sizes/bin32.bin", 65536, 65536, "", 1700000003.0),
    ("sizes/offsets_of_32_bits.bin", 70000, 16384, "", 1700000003.0),
    ("sizes/more_than_127_chunks.bin", 260, 2, "", 1700000003.0),
    ("long/" + "n" * 40 + ".tiff", 17, 64, "", 1700000004.0),
]


def content(size):
    """Return the content of a file of this size: no period that a chunk size could share."""
    return bytes((i * i * 7 + i * 13 + (i >> 8) * 31) % 251 for i in range(size))


def messages(root, path, chunk_bytes, append):
    """Return OpenMSIStream's own (key, value) pairs of a file."""
    from openmsistream.data_file_io.entity.upload_data_file import UploadDataFile
    from openmsistream.kafka_wrapper.serialization import DataFileChunkSerializer

    file = UploadDataFile(root / path, rootdir=root, filename_append=append)
    chunks = queue.Queue()
    file.enqueue_chunks_for_upload(chunks, chunk_size=chunk_bytes)
    serialize = DataFileChunkSerializer()
    while not chunks.empty():
        chunk = chunks.get()
        yield chunk.msg_key, serialize(chunk)


def noted(key, value, whole):
    """Return what golden.json keeps of one message."""
    note = {"key": key, "sha256": hashlib.sha256(value).hexdigest()}
    if whole and len(value) <= NOTED_WHOLE:
        note["value"] = bytes(value).hex()
    return note


def main():
    """Write golden.json."""
    entries = []
    with tempfile.TemporaryDirectory() as folder:
        root = pathlib.Path(folder).resolve()
        for path, size, chunk_bytes, append, mtime in FILES:
            target = root / path
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(content(size))
            os.utime(target, (mtime, mtime))
            entry = {"path": path, "bytes": size, "chunk_bytes": chunk_bytes, "append": append}
            entry["mtime"] = target.stat().st_mtime
            pairs = list(messages(root, path, chunk_bytes, append))
            assert pairs, path
            entry["chunks"] = [noted(*pair, whole=place in (0, len(pairs) - 1)) for place, pair in enumerate(pairs)]
            entries.append(entry)
    golden = {"made_with": f"openmsistream {importlib.metadata.version('openmsistream')}", "files": entries}
    text = json.dumps(golden, ensure_ascii=False, indent=1) + "\n"
    (HERE / "golden.json").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
