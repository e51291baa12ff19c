"""Updates over real UDP: a server process, device processes, and a relay between them that loses datagrams."""

import concurrent.futures
import hashlib
import json
from pathlib import Path
from typing import Any

import pytest

from tests.support.processes import MODEL, Shop, checked, last_json, open_shop, ota_device, ota_server, serving

pytestmark = pytest.mark.system

SEEDS = range(10)
LINK = "delay 20ms 5ms loss 20%"


@pytest.fixture(scope="module")
def shop(firmware_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Shop:
    made = open_shop(tmp_path_factory.mktemp("real"))
    for version in ("1.2.0", "1.2.4"):
        made.publish(firmware_dir / f"microbit-{version}.bin", version)
    return made


def run_device(shop: Shop, firmware_dir: Path, uri: str, seed: int) -> dict[str, Any]:
    result = ota_device(
        *("run", "--server", uri, "--state", str(shop.folder / f"dev{seed}"), "--model", MODEL),
        *("--image", str(firmware_dir / "microbit-1.2.0.bin"), "--trust", shop.public_key),
        *("--link", LINK, "--seed", str(seed), "--once", "--json"),
    )
    return last_json(checked(result))


@pytest.mark.timeout(300)
def test_ten_devices_over_20_percent_loss_update_from_a_server_process(shop: Shop, firmware_dir: Path) -> None:
    wanted = hashlib.sha256((firmware_dir / "microbit-1.2.4.bin").read_bytes()).hexdigest()
    with serving(shop) as uri, concurrent.futures.ThreadPoolExecutor(4) as pool:
        results = list(pool.map(lambda seed: run_device(shop, firmware_dir, uri, seed), SEEDS))
    sent = lost = 0
    for result in results:
        assert result["outcome"] == "confirmed"
        assert result["image"] == wanted
        assert result["via"] == "delta"
        for side in result["link"].values():
            sent, lost = sent + side["sent"], lost + side["lost"]
    assert 0.18 <= lost / sent <= 0.22
    devices = json.loads(checked(ota_server("devices", "--data", shop.data, "--json")))
    assert {item["device"] for item in devices} == {f"dev{seed}" for seed in SEEDS}
    assert {item["last_report"]["outcome"] for item in devices} == {"confirmed"}


def test_a_device_whose_process_is_restarted_says_the_same_from_its_flash_file(shop: Shop, firmware_dir: Path) -> None:
    with serving(shop, "[::1]") as uri:
        words = ("run", "--server", uri, "--state", str(shop.folder / "again"), "--model", MODEL, "--once", "--json")
        factory = ("--image", str(firmware_dir / "microbit-1.2.0.bin"), "--trust", shop.public_key)
        first = last_json(checked(ota_device(*words, *factory, "--power-cut-at", "50%,trailer")))
        second = last_json(checked(ota_device(*words)))
    assert len(first["power_cuts"]) == 2
    assert first["blocks_received_twice"] <= 1
    assert (second["outcome"], second["image"], second["slot"]) == ("up-to-date", first["image"], first["slot"])
    report = json.loads(checked(ota_device("inspect", "--state", str(shop.folder / "again"), "--json")))
    assert report["boots"] == first["slot"]
