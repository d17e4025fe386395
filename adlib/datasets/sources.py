"""What is known about the public data sets that can be fetched: address, size, hash, licence, citation."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Source:
    """What is known about a published data set.

    No address has been tried from here: they are those that others use.

    Attributes
    ----------
    title, url, licence, licence_url, citation : str
    size : int or None
        In bytes.
    sha256 : str or None
        Like size, the archive's; None where the server packs it anew and its bytes may change.
    unpacked : int
        More bytes than come out; an estimate.
    marker : str
        A folder in it by which it is recognised.
    home : str
        Where people get it by hand.
    files : (str, str) or None
        Where size and sha256 are None, a pattern and what `adlib.datasets.download.hash_files` gives for it.
    unverified : str
        What else we could not check.
    """

    title: str
    url: str
    size: int | None
    sha256: str | None
    unpacked: int
    marker: str
    licence: str
    licence_url: str
    citation: str
    home: str
    files: tuple[str, str] | None = None
    unverified: str = ""


MVTEC_LICENCE = ("CC BY-NC-SA 4.0: no commercial use", "https://creativecommons.org/licenses/by-nc-sa/4.0/")
SOURCES = {
    "mvtec_ad": Source(
        "MVTec AD", "https://www.mydrive.ch/shares/150996/b52ecdcbf521176e9db9c731f2304b27/download/"
        "420938113-1629960298/mvtec_anomaly_detection.tar.xz",
        5_264_982_680, "cf4313b13603bec67abb49ca959488f7eedce2a9f7795ec54446c649ac98cd3d", 8_000_000_000,
        "bottle/train/good", *MVTEC_LICENCE,
        "Bergmann, Fauser, Sattlegger, Steger: MVTec AD, CVPR 2019; and IJCV 129 (2021)",
        "https://www.mvtec.com/company/research/datasets/mvtec-ad",
        unverified="the address: MVTec changes its share links",
    ),
    "mvtec_loco": Source(
        "MVTec LOCO AD", "https://www.mydrive.ch/shares/48237/1b9106ccdfbb09a0c414bd49fe44a14a/download/"
        "430647091-1646842701/mvtec_loco_anomaly_detection.tar.xz",
        6_126_996_224, "9e7c84dba550fd2e59d8e9e231c929c45ba737b6b6a6d3814100f54d63aae687", 9_200_000_000,
        "breakfast_box/validation/good", *MVTEC_LICENCE,
        "Bergmann, Batzner, Fauser, Sattlegger, Steger: Beyond Dents and Scratches, IJCV 130 (2022)",
        "https://www.mvtec.com/company/research/datasets/mvtec-loco",
        unverified="the address: MVTec changes its share links",
    ),
    "visa": Source(
        "VisA", "https://amazon-visual-anomaly.s3.us-west-2.amazonaws.com/VisA_20220922.tar",
        1_929_840_640, "2eb8690c803ab37de0324772964100169ec8ba1fa3f7e94291c9ca673f40f362", 1_929_840_640,
        "candle/Data/Images", "CC BY 4.0", "https://creativecommons.org/licenses/by/4.0/",
        "Zou, Jeong, Pemula, Zhang, Dabeer: SPot-the-Difference, ECCV 2022",
        "https://github.com/amazon-science/spot-diff",
    ),
    "btad": Source(
        "BTAD (beanTech)", "https://avires.dimi.uniud.it/papers/btad/btad.zip",
        1_229_193_337, "461c9387e515bfed41ecaae07c50cf6b10def647b36c9e31d239ab2736b10d2a", 10_000_000_000,
        "01/train/ok", "CC BY-NC-SA 4.0, as anomalib reports it",
        "https://creativecommons.org/licenses/by-nc-sa/4.0/",
        "Mishra, Verk, Fornasier, Piciarelli, Foresti: VT-ADL, ISIE 2021",
        "https://avires.dimi.uniud.it/papers/btad/",
        unverified="the licence, which the authors' archive should state; hash and size, which others report",
    ),
    "magnetic_tile": Source(
        "Magnetic tile defects", "https://github.com/abin24/Magnetic-tile-defect-datasets./archive/"
        "cc4eb530b57b9cb7225bf76023873043ffd50655.zip",
        None, None, 200_000_000,
        "MT_Free/Imgs", "none stated; the authors welcome its use and ask to be cited",
        "https://github.com/abin24/Magnetic-tile-defect-datasets.",
        "Huang, Qiu, Yuan: Surface defect saliency of magnetic tile, The Visual Computer 36 (2020)",
        "https://github.com/abin24/Magnetic-tile-defect-datasets.",
        files=("MT_*/Imgs/*", "d2601c3c228c0b4d340c8dae4216c25798bf4ff6339d1fe13fbfb23ad1667a25"),
    ),
}
