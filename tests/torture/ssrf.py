"""Tasks whose pictures' addresses lead where Skylight must not call: written, redirected, renamed in all ways."""

from tests.support.attacks import climbing, direct, network, redirected
from tests.torture.report import Report

NAMED_ONLY = "none"  # nothing but Label Studio


def run(report: Report) -> None:
    """Each address, counting connections to what is forbidden; and what reaches it without any check."""
    with network() as net:
        at = f"127.0.0.1:{net.home.port}"
        straight = list(direct(net.trap.port, at))
        around = list(redirected(net, straight))
        for url in straight:
            net.plainly(url)
        naive, net.trap.connections = net.trap.connections, 0
        net.trap.seen.clear()
        net.stranger.seen.clear()
        net.home.seen.clear()
        for what, urls in (("an address of something inside", straight), ("a redirect to something inside", around)):
            before = net.trap.connections
            for url in urls:
                net.fetch(url)
            report.fault(what, len(urls), net.trap.connections - before)
        report.figure("of those, reached by a client without checks", naive, "times", least=len(straight) // 8)
        before = net.stranger.connections
        for url in around[::3]:
            net.fetch(url, NAMED_ONLY)
        report.fault("a host that is not on the list", len(around[::3]), net.stranger.connections - before)
        asked, climbs = len(net.home.seen), list(climbing(net.home.url))
        for url in climbs:
            net.fetch(url)
        report.fault("a path of Label Studio that leads out of its folder", len(climbs), len(net.home.seen) - asked)
        report.fault("the key, in all of these", len(straight) + len(around) + len(climbs), net.leaked)
