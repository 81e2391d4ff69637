package gateway

// routes registers everything that is served: a method for each subject, in its file.
func (s *Server) routes() {
	s.systemRoutes()
	s.metricsRoutes()
	s.leaseRoutes()
	s.sandboxRoutes()
}
