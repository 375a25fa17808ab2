from playwright.sync_api import sync_playwright
with sync_playwright() as p:
    b=p.chromium.launch(executable_path="/usr/bin/chromium")
    pg=b.new_page(viewport={"width":1300,"height":1000})
    ext=[]
    pg.on("request",lambda r: ext.append(r.url) if "127.0.0.1" not in r.url and not r.url.startswith("data:") else None)
    for n in ("","quickstart/","performance/","architecture/","troubleshooting/","command-line/","operations/"):
        pg.goto(f"http://127.0.0.1:8791/{n}"); pg.wait_for_timeout(300); pg.screenshot(path=f"/tmp/shot-{n.strip('/') or 'index'}.png")
    print(set(ext)); b.close()
