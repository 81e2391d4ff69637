// Package hostfs serves a folder of the host to a guest, whose kernel asks by FUSE
// messages that the agent carries.
//
//	s, err := hostfs.New(hostfs.Config{Folder: "/home/me/project"})
//	defer s.Close()
//	st, err := session.Open(ctx, guest.OpFolder, &guest.Folder{Path: "/work"})
//	err = s.Serve(st, func(err error) { ... mounted, or why not ... })
//
// Every byte of a message may be a hostile guest's. Lengths and counts are bounded
// before anything is held; what is asked for is resolved by the host's kernel beneath
// the folder, through no link and no mount (see root); pipes, sockets and devices are
// neither opened nor made. See docs/decisions/0016-host-folders.md.
//
// A folder's guest may be saved and go on with another server: what the numbers of
// files in its kernel stand for is left in the guest, and taken back as a hint.
package hostfs
