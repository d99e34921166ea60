from unlearner.cli import main

main()
