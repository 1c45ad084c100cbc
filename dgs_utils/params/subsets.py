"""ImageNet's 1,000 classes and the subsets of them that the published experiments use, as data."""

from pathlib import Path

IMAGENET = Path(__file__).with_name("imagenet_classes.csv")  # its classes, and their labels in ImageNet-100

# (wnid, index among ImageNet's 1,000 classes, name), in the label order of the published experiments [F §1.1].
SUBSETS: dict[str, list[tuple[str, int, str]]] = {
    "imagewoof": [
        ("n02096294", 193, "Australian terrier"),
        ("n02093754", 182, "Border terrier"),
        ("n02111889", 258, "Samoyed"),
        ("n02088364", 162, "beagle"),
        ("n02086240", 155, "Shih-Tzu"),
        ("n02089973", 167, "English foxhound"),
        ("n02087394", 159, "Rhodesian ridgeback"),
        ("n02115641", 273, "dingo"),
        ("n02099601", 207, "golden retriever"),
        ("n02105641", 229, "Old English sheepdog"),
    ],
    "imagenette": [
        ("n01440764", 0, "tench"),
        ("n02102040", 217, "English springer"),
        ("n02979186", 482, "cassette player"),
        ("n03000684", 491, "chain saw"),
        ("n03028079", 497, "church"),
        ("n03394916", 566, "French horn"),
        ("n03417042", 569, "garbage truck"),
        ("n03425413", 571, "gas pump"),
        ("n03445777", 574, "golf ball"),
        ("n03888257", 701, "parachute"),
    ],
    "imageidc": [
        ("n02869837", 452, "bonnet"),
        ("n01749939", 64, "green mamba"),
        ("n02488291", 374, "langur"),
        ("n02107142", 236, "Doberman"),
        ("n13037406", 993, "gyromitra"),
        ("n02091831", 176, "Saluki"),
        ("n04517823", 882, "vacuum cleaner"),
        ("n04589890", 904, "window screen"),
        ("n03062245", 503, "cocktail shaker"),
        ("n01773797", 74, "garden spider"),
    ],
}


def _read_imagenet() -> dict[str, list[tuple[str, int, str]]]:
    """Return ImageNet-100 and ImageNet-1k, with the names above of the classes that are there.

    ImageNet-100 is that of CMC (Tian et al. 2020; imagenet100.txt of HobbitLong/CMC at bc687a26), in its order, whose
    first ten are ImageIDC. IDC has the same list as class100.txt (a copy is in orangenuinee/RDED at 8e1f298f), and
    Minimax Diffusion's data.py reads it. RDED takes IDC's subset, too, but calls its folders 00000 to 00099.
    """
    header, *lines = (line.split(",") for line in IMAGENET.read_text(encoding="utf-8").splitlines())
    table = [dict(zip(header, line, strict=True)) for line in lines]  # the kit's own file, without quotes
    names = {wnid: name for rows in SUBSETS.values() for wnid, _, name in rows}
    rows = {row["wnid"]: (row["wnid"], int(row["index"]), names.get(row["wnid"], row["name"])) for row in table}
    hundred = sorted((int(row["imagenet100"]), row["wnid"]) for row in table if row["imagenet100"])
    return {"imagenet100": [rows[wnid] for _, wnid in hundred], "imagenet1k": list(rows.values())}


SUBSETS |= _read_imagenet()
