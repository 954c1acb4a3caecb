"""Pages of S3 listings: the XML document of ListObjectsV2, into keys in order. Pure functions.

The format is Amazon's: https://docs.aws.amazon.com/AmazonS3/latest/API/API_ListObjectsV2.html.
"""

from dataclasses import dataclass
from datetime import UTC, datetime
from urllib.parse import unquote_plus
from xml.etree import ElementTree

from datamodel.errors import Corrupt
from ufs.objects import Key


@dataclass(frozen=True, slots=True)
class Page:
    """One answer."""

    keys: list[Key]
    """Objects and common prefixes together, in order of bytes."""
    next_token: str
    """Empty on the last page."""


def parse_page(document: bytes) -> Page | None:
    """The page in *document*; None where that is no XML, as when a key holds a control character.

    Raises:
        Corrupt: XML, but no page of a listing.
    """
    if b"<!DOCTYPE" in document:
        raise Corrupt("a listing has a document type, whose entities could blow it up")
    try:
        root = ElementTree.fromstring(document)
    except ElementTree.ParseError:
        return None
    if _tag(root) != "ListBucketResult":
        raise Corrupt(f"a listing is a {_tag(root)!r} document, not a 'ListBucketResult'")
    keys: list[Key] = []
    values = {"IsTruncated": "", "NextContinuationToken": "", "EncodingType": ""}
    for child in root:
        tag = _tag(child)
        if tag == "Contents":
            keys.append(_object(child))
        elif tag == "CommonPrefixes":
            keys.extend(Key(part.text or "") for part in child if _tag(part) == "Prefix")
        elif tag in values:
            values[tag] = (child.text or "").strip()
    if values["EncodingType"] == "url":
        keys = [Key(unquote_plus(key.name), key.size, key.mtime_ns) for key in keys]
    keys.sort(key=lambda key: key.name)
    if values["IsTruncated"] != "true":
        return Page(keys, "")
    if not values["NextContinuationToken"]:
        raise Corrupt("a listing is said to go on, but not where; is it of version 2?")
    return Page(keys, values["NextContinuationToken"])


def _object(element: ElementTree.Element) -> Key:
    fields = {_tag(part): part.text or "" for part in element}
    try:
        return Key(fields["Key"], int(fields["Size"]), _whole_seconds_ns(fields.get("LastModified", "")))
    except (KeyError, ValueError) as error:
        raise Corrupt(f"a listing describes an object by {sorted(fields)}: {error!r}") from error


def _whole_seconds_ns(text: str) -> int:
    """A time as ISO 8601. Its fraction goes: HEAD and GET do not tell it, and both must say the same."""
    if not text:
        return 0
    moment = datetime.fromisoformat(text.strip())
    return int((moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()) * 10**9


def _tag(element: ElementTree.Element) -> str:
    return element.tag.rpartition("}")[2]
