// Package netstack is the network of one sandbox: a user-mode router at the other
// end of the guest's only network card.
package netstack
