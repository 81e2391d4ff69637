package cli

import "github.com/spf13/cobra"

func (a *app) newSetup() *cobra.Command  { return &cobra.Command{Use: "setup"} }
func (a *app) newDoctor() *cobra.Command { return &cobra.Command{Use: "doctor"} }
