"""Second models of the device models, written from data sheets or ABI.md, independent of the hypervisor."""
