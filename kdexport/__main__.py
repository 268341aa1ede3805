from kdexport.cli import main

main()
