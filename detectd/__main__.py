from detectd.cli import main

main(prog_name="detectd")
