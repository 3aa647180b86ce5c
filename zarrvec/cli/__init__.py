"""The command ``zarrvec``. Nothing is imported before it runs."""


def main() -> None:
    """Run the command line."""
    from zarrvec.cli.app import app

    app()
