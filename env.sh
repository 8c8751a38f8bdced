gan () 
{ 
    t python train_gan.py --config=configs/resgan.py:smoke --workdir=$B/w --config.data_dir=$PH "$@";
    [ -e $B/w ] && { 
        echo "WROTE: $(ls -A $B/w)";
        rm -rf $B/w
    }
}
cls () 
{ 
    t python train_classifier.py --config=configs/lesion_cnn.py:smoke --workdir=$B/w --config.data_dir=$PH "$@";
    [ -e $B/w ] && { 
        echo "WROTE: $(ls -A $B/w)";
        rm -rf $B/w
    }
}
PH=$B/ph
