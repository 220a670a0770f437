"""The command line: reads arguments, calls, prints, sets the exit code. A command imports what it needs."""

import functools
import json
import os
import signal
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import ParamSpec, TypeVar

import click

from detectd import __version__
from detectd.errors import DetectdError

# One core a process: the engine's parallelism is in its batches, and idle BLAS threads would spin on other cores.
# Must be set before numpy is imported, which is why no module above imports it.
for _name in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(_name, "1")

_INTERRUPTED = 130
_EVENTS, _REPLAY = "tcp://127.0.0.1:5557", "tcp://127.0.0.1:5558"
_MAX_HOP_S = 86_400

_P = ParamSpec("_P")
_R = TypeVar("_R")


def one_line_errors(command: Callable[_P, _R]) -> Callable[_P, _R]:
    """Print what the user can mend as one line, with its exit code; anything else is a bug with a traceback."""

    @functools.wraps(command)
    def wrapped(*args: _P.args, **kwargs: _P.kwargs) -> _R:
        try:
            return command(*args, **kwargs)
        except DetectdError as error:
            click.echo(f"error: {error}", err=True)
            sys.exit(error.exit_code)
        except KeyboardInterrupt:
            sys.exit(_INTERRUPTED)
        except BrokenPipeError:
            # Whoever read our output has gone; there is nobody left to tell.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            sys.exit(1)

    return wrapped


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name="detectd")
def main() -> None:
    """Find low-feature sounds, a few narrowband tones in noise, in many streams at once."""


@main.command()
@click.option("--config", "path", default="config.toml", show_default=True, help="The configuration file.")
@click.option(
    "--log",
    "log_form",
    type=click.Choice(["text", "json"]),
    default="text",
    show_default=True,
    help="For people, or one JSON object a line.",
)
@one_line_errors
def run(path: str, log_form: str) -> None:
    """Run the daemon until SIGTERM or Ctrl-C.

    Exit code 0 after a clean stop, 2 for a bad configuration, 3 for a bad bundle.
    """
    from detectd.config.config import load_config

    # Before the heavy imports: a slip in the configuration is told at once.
    config = load_config(path)
    # A wish to reload before there is anything to reload is no reason to die.
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    from detectd.monitor import log
    from detectd.service.daemon import Daemon

    with log.to_stderr(log_form):
        exit_code = Daemon(config).run()
    sys.exit(exit_code)


@main.command()
@click.option("--config", "path", default="config.toml", show_default=True, help="The configuration file.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@one_line_errors
def check(path: str, as_json: bool) -> None:
    """Validate a configuration and its bundles, and show what would run."""
    from detectd.config.config import load_config

    config = load_config(path)
    from detectd.commands.check import plan_of, plan_text

    plan = plan_of(config)
    click.echo(json.dumps(plan, indent=2) if as_json else plan_text(plan))


@main.command()
@click.argument("files", nargs=-1, required=True)
@click.option("--stream", "stream_id", required=True, help="Stream id to send as.")
@click.option("--to", "endpoint", default="tcp://127.0.0.1:5555", show_default=True, help="The daemon's PULL endpoint.")
@click.option("--speed", default=1.0, show_default=True, help="Times real time; 0 = as fast as accepted.")
@click.option("--start-time", help="Capture time of the first sample, RFC 3339; else the daemon takes arrival time.")
@one_line_errors
def send(files: tuple[str, ...], stream_id: str, endpoint: str, speed: float, start_time: str | None) -> None:
    """Send audio files to a daemon as one stream, one after another.

    WAV, FLAC and OGG. A file of several channels becomes the streams ID/0, ID/1 and so on. Files of one rate and
    channel count follow on each other in one epoch; any other begins a new one.
    """
    stop = _stopped_by_signal()
    from detectd.send import send_files

    n_sent = send_files([Path(file) for file in files], stream_id, endpoint, speed, start_time, stop)
    click.echo(f"{'stopped' if stop.is_set() else 'sent'}: {n_sent} samples of each channel", err=True)
    sys.exit(_INTERRUPTED if stop.is_set() else 0)


@main.command()
@click.option("--device", required=True, help="A name that `detectd devices` shows, a part of one, or default.")
@click.option("--stream", "stream_id", required=True, help="Stream id to send as.")
@click.option("--to", "endpoint", default="tcp://127.0.0.1:5555", show_default=True, help="The daemon's PULL endpoint.")
@click.option("--rate", "rate_hz", type=int, help="Samples per second; else the device's own.")
@click.option("--channels", type=click.IntRange(1, 64), help="Channels to record; else one, with --mix all.")
@click.option("--mix", is_flag=True, help="Average the channels to one stream.")
@one_line_errors
def capture(device: str, stream_id: str, endpoint: str, rate_hz: int | None, channels: int | None, mix: bool) -> None:
    """Record a sound device and send it to a daemon, until SIGTERM or Ctrl-C.

    Several channels become the streams ID/0, ID/1 and so on. A device that is not there is waited for; one that is
    unplugged is never replaced by another.
    """
    stop = _stopped_by_signal()
    from detectd.capture.status import Task
    from detectd.commands.capture import capture as record
    from detectd.commands.capture import checked
    from detectd.monitor import log

    task = checked(Task(device, stream_id, endpoint, rate_hz, channels, mix))
    with log.to_stderr():
        record(task, stop)


@main.command()
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@one_line_errors
def devices(as_json: bool) -> None:
    """List the sound devices that can be recorded, with the rates they do."""
    from detectd.commands.devices import device_rows, devices_text

    rows = device_rows()
    click.echo(json.dumps(rows, indent=2) if as_json else devices_text(rows))


def _stopped_by_signal() -> threading.Event:
    """Return an event that the first SIGINT or SIGTERM sets; the second ends the process.

    Call it before there are other threads. A thread waits for the signals, because an event that is set by a handler
    hangs where the handler interrupts a wait for that same event.
    """
    stop = threading.Event()
    numbers = (signal.SIGINT, signal.SIGTERM)

    def wait() -> None:
        signal.sigwait(numbers)
        stop.set()
        signal.sigwait(numbers)
        os._exit(_INTERRUPTED)

    signal.pthread_sigmask(signal.SIG_BLOCK, numbers)
    threading.Thread(target=wait, name="signals", daemon=True).start()
    return stop


@main.command()
@click.option("--from", "endpoint", help=f"The daemon's PUB endpoint.  [default: {_EVENTS}]")
@click.option(
    "--replay", help=f"Its replay endpoint, for what was missed.  [default: {_REPLAY} if --from is not given]"
)
@click.option("--topic", default="event/", show_default=True, help="Prefix of the topics to follow.")
@click.option("--last", "n_earlier", default=10, show_default=True, help="Begin with this many earlier messages.")
@click.option("--json", "as_json", is_flag=True, help="Print the messages as they are, one a line.")
@one_line_errors
def listen(endpoint: str | None, replay: str | None, topic: str, n_earlier: int, as_json: bool) -> None:
    """Follow a daemon's events until Ctrl-C.

    What did not arrive, because this program or the daemon was away or slow, is asked for and printed in its place.
    """
    from detectd.commands.event_text import event_text
    from detectd.commands.listen import Listener

    if n_earlier < 0:
        raise DetectdError(f"--last {n_earlier}: expected a number of messages of at least 0")
    listener = Listener(endpoint or _EVENTS, replay or (None if endpoint else _REPLAY), topic, n_earlier)
    try:
        for heard in listener.follow():
            if heard.message is None:
                click.echo(heard.notice, err=True)
            elif as_json:
                click.echo(json.dumps(heard.message, ensure_ascii=False, separators=(",", ":")))
            else:
                click.echo(event_text(heard.message) + (f"  ({heard.how})" if heard.how else ""))
    except KeyboardInterrupt:
        pass
    finally:
        listener.close()


@main.command()
@click.option("--config", "path", default="config.toml", show_default=True, help="The daemon's configuration file.")
@click.option("--since", help="Events that lasted to this time or beyond: RFC 3339, or how long ago, like 90s, 2h, 1d.")
@click.option("--until", help="Events that began before this time, given likewise.")
@click.option("--stream", help="Glob of stream ids.")
@click.option("--detector", help="Name of a detector.")
@click.option("--label", help="What was found.")
@click.option("--open", "only_open", is_flag=True, help="Only events that have not ended.")
@click.option("--last", "n_last", type=click.IntRange(min=1), help="Only so many, the newest.")
@click.option("--json", "as_json", is_flag=True, help="Print the newest message of each event, one a line.")
@one_line_errors
def events(
    path: str,
    since: str | None,
    until: str | None,
    stream: str | None,
    detector: str | None,
    label: str | None,
    only_open: bool,
    n_last: int | None,
    as_json: bool,
) -> None:
    """Show the events in a daemon's journal, one a line in the order they began, whether it runs or not."""
    import time

    from detectd.commands.event_text import event_text
    from detectd.commands.events import Wanted, events_in, lacking, time_of
    from detectd.config.config import load_config

    journal = load_config(path).service.state_dir / "journal.sqlite3"
    now_ns = time.time_ns()
    wanted = Wanted(
        since_ns=None if since is None else time_of(since, now_ns, "--since"),
        until_ns=None if until is None else time_of(until, now_ns, "--until"),
        stream=stream,
        detector=detector,
        label=label,
        only_open=only_open,
        n_last=n_last,
    )
    if (notice := lacking(journal, wanted)) is not None:
        click.echo(notice, err=True)
    n_found = 0
    for n_found, body in enumerate(events_in(journal, wanted), start=1):  # noqa: B007
        click.echo(body if as_json else event_text(json.loads(body)))
    if not n_found:
        click.echo(f"no such events in {journal}", err=True)


@main.command()
@click.argument("files", nargs=-1, required=True)
@click.option("--bundle", required=True, help="The model bundle, a folder NAME.detectd.")
@click.option("--hop", "hop_s", default=0.25, show_default=True, help="Seconds between windows; rounded to its grid.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object a row instead of CSV.")
@one_line_errors
def score(files: tuple[str, ...], bundle: str, hop_s: float, as_json: bool) -> None:
    """Score every window of audio files, as CSV: path,start_s,end_s,score.

    Channels are averaged. A file that cannot be read is named, the others are scored, and the exit code is 1.
    """
    from detectd.bundles.scoring import open_detector_bundle
    from detectd.commands.score import print_scores

    if not 0 < hop_s <= _MAX_HOP_S:
        raise DetectdError(f"--hop {hop_s}: expected a number of seconds above 0 and at most {_MAX_HOP_S}")
    sys.exit(print_scores(files, open_detector_bundle(bundle), hop_s, as_json=as_json))


@main.group()
def bundle() -> None:
    """Look at model bundles."""


@bundle.command()
@click.argument("path")
@click.option("--json", "as_json", is_flag=True, help="Print the manifest.")
@one_line_errors
def inspect(path: str, as_json: bool) -> None:
    """Show what a bundle is, what it needs and how good it was found to be."""
    from detectd.bundles.bundle import load_bundle
    from detectd.bundles.report import report

    loaded = load_bundle(path)
    click.echo((loaded.path / "manifest.json").read_text() if as_json else report(loaded), nl=not as_json)


@bundle.command()
@click.argument("path")
@one_line_errors
def verify(path: str) -> None:
    """Check a bundle's files, hashes, graph and golden scores; exit code 3 if anything is wrong."""
    from detectd.bundles.scoring import open_detector_bundle

    opened = open_detector_bundle(path).bundle
    click.echo(f"{opened.ident}: good; digest {opened.digest}")
