"""A running demo -> the pictures of the documents, `docs/pictures/*.png`: the pages as a first user sees them.

    make pictures HOME_FOLDER=<the demo's home>

They show synthetic pictures alone, and say so. Light, 1000 px wide, with few colours: some tens of kilobytes each.
"""

import io
import os
import shutil
import sys
from pathlib import Path

from PIL import Image
from playwright.sync_api import Page, sync_playwright

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from lesion_tasks.laptop import airflow

FOLDER = Path(__file__).resolve().parents[1] / "docs" / "pictures"
TASK = "malignancy"
N_COLOURS = 64
# Name -> page below the pages' prefix, and height in px.
PICTURES = {
    "leaderboard": (f"leaderboard/{TASK}", 760),
    "champion": (f"champion/{TASK}", 900),
    "report": ("reports/{training}/report.html", 900),
}


def take(page: Page, address: str) -> None:
    """Write every picture; the pages are at an address, which ends with a slash, and the browser is logged in."""
    page.goto(f"{address}champion/{TASK}")
    training = page.locator("section[aria-labelledby=now] code").first.inner_text()
    for name, (path, height) in PICTURES.items():
        page.set_viewport_size({"width": 1000, "height": height})
        page.goto(address + path.format(training=training))
        page.wait_for_timeout(1_500)  # pictures, and what the page asks Airflow for
        shown = Image.open(io.BytesIO(page.screenshot())).convert("RGB")
        target = FOLDER / f"{name}.png"
        shown.quantize(N_COLOURS, dither=Image.Dither.NONE).save(target, optimize=True)
        sys.stdout.write(f"{target}: {target.stat().st_size:,} bytes\n")


def main(home: Path) -> None:
    """Log in to the demo under a home folder and take the pictures."""
    api = airflow.connect(home)
    found = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("google-chrome")
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=found, args=["--no-sandbox"])
        page = browser.new_page(color_scheme="light")
        page.goto(f"{api.url}/")
        page.fill("input[name=username]", airflow.USERNAME)
        page.fill("input[name=password]", api.password)
        page.click("button[type=submit]")
        page.wait_for_url(lambda url: "login" not in url)
        take(page, f"{api.url}/lesions/")
        browser.close()


if __name__ == "__main__":
    main(Path(sys.argv[1]).resolve())
