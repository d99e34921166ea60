from unlearner.commands.main import main

main()
